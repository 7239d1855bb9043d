package up

import (
	"encoding/json"
	"testing"
)

func TestSummaryErr(t *testing.T) {
	good := Summary{Issued: 2, Renewed: 1, Allowed: 1, Denied: 1, MTLSPeer: "spiffe://td/ns/a/sa/b"}
	if err := good.Err(); err != nil {
		t.Errorf("a demonstration that worked: %v", err)
	}
	for name, row := range map[string]struct {
		spoil func(*Summary)
		want  string
	}{
		"issued":  {func(s *Summary) { s.Issued = 0 }, "nothing was issued"},
		"renewed": {func(s *Summary) { s.Renewed = 0 }, "nothing was renewed"},
		"allowed": {func(s *Summary) { s.Allowed = 0 }, "no request was allowed"},
		"denied":  {func(s *Summary) { s.Denied = 0 }, "no request was denied"},
		"failed":  {func(s *Summary) { s.Failed = 3 }, "3 failed"},
		"peer":    {func(s *Summary) { s.MTLSPeer = "" }, "no mutual TLS peer was seen"},
		"all":     {func(s *Summary) { *s = Summary{Failed: 1} }, "nothing was issued, nothing was renewed, no request was allowed, no request was denied, 1 failed, no mutual TLS peer was seen"},
	} {
		s := good
		row.spoil(&s)
		if err := s.Err(); err == nil || err.Error() != "the demonstration did not work: "+row.want {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

// TestSummaryKeys: scripts read them.
func TestSummaryKeys(t *testing.T) {
	text, err := json.Marshal(Summary{1, 2, 3, 4, 5, "p"})
	if got, want := string(text), `{"issued":1,"renewed":2,"allowed":3,"denied":4,"failed":5,"mtls_peer":"p"}`; err != nil || got != want {
		t.Errorf("got %s, want %s (%v)", got, want, err)
	}
}

func TestCountsForms(t *testing.T) {
	c := &counts{}
	c.issued.Add(1_000)
	c.failed.Add(7)
	forms := c.forms()
	if got, want := forms[0], "issued 1000  renewed 0  |  allowed 0  denied 0  failed 7"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := 1; i < len(forms); i++ {
		if len(forms[i]) >= len(forms[i-1]) {
			t.Errorf("form %d is no shorter than the one before: %q", i, forms[i])
		}
	}
}
