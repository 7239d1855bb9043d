package up

import (
	"fmt"
	"strings"
	"sync/atomic"
)

// A Summary is what a run has seen; --output=json prints it.
type Summary struct {
	Issued  int64 `json:"issued"`  // first certificates of workloads
	Renewed int64 `json:"renewed"` // certificates that replaced another
	Allowed int64 `json:"allowed"` // requests answered by the service
	Denied  int64 `json:"denied"`  // requests refused by policy (403)
	Failed  int64 `json:"failed"`  // requests with any other outcome, and refused renewals
	// MTLSPeer is the SPIFFE ID of the client that the server's Envoy verified.
	MTLSPeer string `json:"mtls_peer"`
}

// Err says what is missing from a demonstration that worked: something
// renewed, something allowed, something denied, nothing failed.
func (s Summary) Err() error {
	var missing []string
	for _, want := range []struct {
		ok   bool
		what string
	}{
		{s.Issued > 0, "nothing was issued"},
		{s.Renewed > 0, "nothing was renewed"},
		{s.Allowed > 0, "no request was allowed"},
		{s.Denied > 0, "no request was denied"},
		{s.Failed == 0, fmt.Sprintf("%d failed", s.Failed)},
		{s.MTLSPeer != "", "no mutual TLS peer was seen"},
	} {
		if !want.ok {
			missing = append(missing, want.what)
		}
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("the demonstration did not work: %s", strings.Join(missing, ", "))
}

// counts are the Summary while it is being counted.
type counts struct {
	issued, renewed, allowed, denied, failed atomic.Int64
	peer                                     atomic.Pointer[string]
}

func (c *counts) summary() Summary {
	s := Summary{Issued: c.issued.Load(), Renewed: c.renewed.Load(), Allowed: c.allowed.Load(), Denied: c.denied.Load(), Failed: c.failed.Load()}
	if p := c.peer.Load(); p != nil {
		s.MTLSPeer = *p
	}
	return s
}

// forms are the counters as a line, the most readable first.
func (c *counts) forms() []string {
	s := c.summary()
	form := func(format string) string {
		return fmt.Sprintf(format, s.Issued, s.Renewed, s.Allowed, s.Denied, s.Failed)
	}
	return []string{
		form("issued %d  renewed %d  |  allowed %d  denied %d  failed %d"),
		form("iss %d ren %d ok %d deny %d fail %d"),
		form("%d %d %d %d %d"),
	}
}
