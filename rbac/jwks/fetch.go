package jwks

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/istio-auth/istio-auth/mtls"
)

// Why an address, or what it answers, is refused.
const (
	BadURL      = "bad-url"     // not https, with a user or a fragment, or a host that is a number
	BadAddress  = "bad-address" // of an internal network that is not allowed
	Redirected  = "redirected"  // the answer sends us elsewhere
	BadStatus   = "bad-status"  // not 200
	BadEncoding = "bad-encoding"
	Unreachable = "unreachable" // no connection, no TLS, or no whole answer in time
)

// DefaultTimeout is how long one fetch may take, from the name to the last byte.
const DefaultTimeout = 5 * time.Second

// maxURL is how long an address may be.
const maxURL = 2048

// A FetcherConfig says who may be asked. Its zero value asks public addresses
// whose certificate the system's roots vouch for.
type FetcherConfig struct {
	// Roots replace the system's.
	Roots *x509.CertPool
	// Allow lists networks that are asked although they are not public.
	Allow []netip.Prefix
	// Timeout bounds a fetch for which the caller sets none. Zero means
	// DefaultTimeout.
	Timeout time.Duration
	// Resolver resolves names. Nil means the system's.
	Resolver *net.Resolver
}

// A Fetcher gets key sets over HTTPS. Whoever writes an address need not be
// whoever runs us, so that nothing is asked inside our network: the address is
// looked at when it is dialled, after the name was resolved for the last time.
// It follows no redirect and uses no proxy, and gives away nothing of a body
// that is no key set. It may be used by many at once.
type Fetcher struct {
	client  *http.Client
	timeout time.Duration
}

// NewFetcher makes a fetcher.
func NewFetcher(c FetcherConfig) *Fetcher {
	allow := slices.Clone(c.Allow)
	dialer := &net.Dialer{
		Resolver: c.Resolver,
		Control:  func(network, address string, _ syscall.RawConn) error { return mayDial(network, address, allow) },
	}
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return &Fetcher{timeout: timeout, client: &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        mtls.WebClient(c.Roots),
			DisableCompression:     true,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Fetch gets the key set at uri. Timeout is how long it may take; zero means the
// fetcher's own. Errors are of type [*Refusal], but for the context's.
func (f *Fetcher) Fetch(ctx context.Context, uri string, timeout time.Duration) (Set, error) {
	if err := CheckURI(uri); err != nil {
		return Set{}, err
	}
	if timeout <= 0 {
		timeout = f.timeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := f.get(limited, uri)
	if err != nil {
		if ctx.Err() != nil {
			return Set{}, fmt.Errorf("fetching a key set: %w", ctx.Err())
		}
		return Set{}, err
	}
	return Parse(body)
}

func (f *Fetcher) get(ctx context.Context, uri string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, refuse(BadURL, "it cannot be asked for")
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("User-Agent", "istio-auth")
	resp, err := f.client.Do(req)
	if err != nil {
		var refusal *Refusal
		if errors.As(err, &refusal) {
			return nil, refusal
		}
		return nil, refuse(Unreachable, "%s", reachability(err))
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, refuse(Redirected, "it answers %d", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return nil, refuse(BadStatus, "it answers %d", resp.StatusCode)
	case resp.Header.Get("Content-Encoding") != "":
		return nil, refuse(BadEncoding, "it is compressed, which was not asked for")
	case resp.ContentLength > MaxBytes:
		return nil, refuse(TooLarge, "it has %d bytes", resp.ContentLength)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBytes+1))
	if err != nil {
		return nil, refuse(Unreachable, "%s", reachability(err))
	}
	return body, nil // Parse counts the bytes
}

// reachability says what kept us, and nothing of what the other side said.
func reachability(err error) string {
	var name *net.DNSError
	var unknown x509.UnknownAuthorityError
	var wrong x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "there is no whole answer in time"
	case errors.As(err, &name):
		return "the name has no address"
	case errors.As(err, &unknown), errors.As(err, &wrong), errors.As(err, &invalid):
		return "its certificate is not good for it"
	}
	return "there is no connection, or it was broken off"
}

// CheckURI tells whether a key set may be asked for at uri, as far as the text
// shows. Errors are of type [*Refusal].
func CheckURI(uri string) error {
	if len(uri) > maxURL {
		return refuse(BadURL, "it has more than %d bytes", maxURL)
	}
	if strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' }) {
		return refuse(BadURL, "it has what no address has")
	}
	u, err := url.Parse(uri)
	switch {
	case err != nil:
		return refuse(BadURL, "it is no address")
	case u.Scheme != "https" || u.Opaque != "" || u.Hostname() == "":
		return refuse(BadURL, "it is not https://host/...")
	case u.User != nil:
		return refuse(BadURL, "it has a user")
	case strings.Contains(uri, "#"):
		return refuse(BadURL, "it has a fragment")
	case u.Port() == "0" || strings.HasSuffix(u.Host, ":"):
		return refuse(BadURL, "it has no port")
	}
	return checkHost(u.Hostname())
}

// checkHost refuses what some resolvers take for an address and others for a
// name: 2130706433, 0x7f.1, 127.1, and an IPv6 address with a zone.
func checkHost(host string) error {
	if address, err := netip.ParseAddr(host); err == nil {
		if address.Zone() != "" {
			return refuse(BadURL, "its address has a zone")
		}
		return nil
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return refuse(BadURL, "its host is no name")
		}
	}
	last := strings.ToLower(labels[len(labels)-1])
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return refuse(BadURL, "its host is a number, and no address")
	}
	return nil
}

// mayDial is asked with the very address that is dialled next.
func mayDial(network, address string, allow []netip.Prefix) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return refuse(BadAddress, "it is no address of TCP")
	}
	ip := at.Addr().Unmap()
	if ip.Zone() == "" && (isPublic(ip) || slices.ContainsFunc(allow, func(p netip.Prefix) bool { return p.Contains(ip) })) {
		return nil
	}
	return refuse(BadAddress, "its address is not public, and not allowed")
}

// reserved are the networks of the IANA registries of special-purpose addresses
// that nobody on the Internet answers from (RFC 6890), and those of IPv6 within
// which an address of IPv4 hides.
var reserved = func() (list []netip.Prefix) {
	for _, text := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}()

var globalUnicast = netip.MustParsePrefix("2000::/3")

// isPublic tells whether an address is one of the Internet's.
func isPublic(ip netip.Addr) bool {
	return (ip.Is4() || globalUnicast.Contains(ip)) && !slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(ip) })
}
