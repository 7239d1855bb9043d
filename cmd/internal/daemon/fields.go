package daemon

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Problems gathers what is wrong with a configuration, a line each, so that
// its author sees all of it at once.
type Problems struct{ list []string }

// Addf adds a problem with the field of that name.
func (p *Problems) Addf(field, format string, args ...any) {
	p.list = append(p.list, field+": "+fmt.Sprintf(format, args...))
}

// Err is nil where there is no problem.
func (p *Problems) Err() error {
	switch len(p.list) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%s", p.list[0])
	}
	text := ""
	for _, line := range p.list {
		text += "\n  " + line
	}
	return fmt.Errorf("%d problems:%s", len(p.list), text)
}

// TrustDomain checks a required trust domain.
func (p *Problems) TrustDomain(field, value string) {
	if value == "" {
		p.Addf(field, "is required, such as \"cluster.local\"")
		return
	}
	td, err := spiffeid.TrustDomainFromString(value)
	if err != nil {
		p.Addf(field, "%v", err)
	} else if td.Name() != value {
		p.Addf(field, "is a bare name such as %q, not %q", td.Name(), value)
	}
}

// Listen checks the host:port of a listener of ours. The host may be empty: all
// addresses. An empty value is a problem where it is required.
func (p *Problems) Listen(field, value string, required bool) {
	if value == "" {
		if required {
			p.Addf(field, "is required, as host:port")
		}
		return
	}
	p.hostPort(field, value, true)
}

// Dial checks the required host:port of somebody else.
func (p *Problems) Dial(field, value string) {
	if value == "" {
		p.Addf(field, "is required, as host:port")
		return
	}
	p.hostPort(field, value, false)
}

// hostPort checks host:port. A listener may leave out the host, and leave the
// port, as 0, to the kernel.
func (p *Problems) hostPort(field, value string, listener bool) {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		p.Addf(field, "is host:port: %v", err)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		p.Addf(field, "port %q is not a number from 0 to 65535", port)
	} else if n == 0 && !listener {
		p.Addf(field, "port 0 cannot be reached")
	}
	switch _, err := netip.ParseAddr(host); {
	case host == "" && !listener:
		p.Addf(field, "%q names no host", value)
	case host != "" && err != nil && !isName(host):
		p.Addf(field, "%q is neither an IP address nor a name in DNS", host)
	}
}

// isName tells whether s is a host's name, as in RFC 1123 §2.1, with the
// underscore that some networks use.
func isName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
				return false
			}
		}
	}
	return true
}

// Label checks a required RFC 1123 label, such as a namespace.
func (p *Problems) Label(field, value string) {
	if bad := validation.IsDNS1123Label(value); bad != nil {
		p.Addf(field, "%q: %s", value, strings.Join(bad, "; "))
	}
}

// Subdomain checks an RFC 1123 subdomain, such as a node's name. An empty one
// is a problem where it is required.
func (p *Problems) Subdomain(field, value string, required bool) {
	if value == "" && !required {
		return
	}
	if bad := validation.IsDNS1123Subdomain(value); bad != nil {
		p.Addf(field, "%q: %s", value, strings.Join(bad, "; "))
	}
}

// Path checks an absolute, clean path. An empty one is a problem where it is
// required.
func (p *Problems) Path(field, value string, required bool) {
	if value == "" {
		if required {
			p.Addf(field, "is required")
		}
		return
	}
	if !filepath.IsAbs(value) || filepath.Clean(value) != value || strings.ContainsRune(value, 0) {
		p.Addf(field, "want an absolute, clean path, not %q", value)
	}
}

// OneOf checks that exactly one of the named fields is set.
func (p *Problems) OneOf(field string, set map[string]bool) {
	n := 0
	for _, present := range set {
		if present {
			n++
		}
	}
	if n != 1 {
		p.Addf(field, "set exactly one of %s (one without settings is written {})", strings.Join(slices.Sorted(maps.Keys(set)), ", "))
	}
}
