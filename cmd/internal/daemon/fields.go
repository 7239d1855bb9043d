package daemon

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
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

// Address checks host:port. An empty one is a problem where it is required.
func (p *Problems) Address(field, value string, required bool) {
	if value == "" {
		if required {
			p.Addf(field, "is required, as host:port")
		}
		return
	}
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		p.Addf(field, "is host:port: %v", err)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		p.Addf(field, "port %q is not a number from 0 to 65535", port)
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
	if !filepath.IsAbs(value) || filepath.Clean(value) != value {
		p.Addf(field, "want an absolute, clean path, not %q", value)
	}
}

// OneOf checks that exactly one of the named fields is set.
func (p *Problems) OneOf(field string, set map[string]bool) {
	n := 0
	names := ""
	for name, present := range set {
		names += " " + name
		if present {
			n++
		}
	}
	if n != 1 {
		p.Addf(field, "set exactly one of:%s", names)
	}
}
