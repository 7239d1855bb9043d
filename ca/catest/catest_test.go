package catest

import (
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestSVID(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("mesh.test")
	ours, theirs := New(t, td), New(t, td)
	id := spiffeid.RequireFromPath(td, "/ns/a/sa/b")

	svid := ours.SVID(t, id, time.Hour)
	got, _, err := x509svid.Verify(svid.Certificates, ours.Bundle())
	if err != nil || got != id {
		t.Errorf("verified %s, %v", got, err)
	}
	if _, _, err := x509svid.Verify(svid.Certificates, theirs.Bundle()); err == nil {
		t.Error("another CA's bundle vouches for the SVID")
	}
	expired := ours.SVID(t, id, -time.Minute)
	if _, _, err := x509svid.Verify(expired.Certificates, ours.Bundle()); err == nil {
		t.Error("an expired SVID is accepted")
	}
}
