package mesh_test

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// traps are the ways in which a real Envoy 1.40 was seen to fail open or to
// fall over, as they were numbered when they were found. Each is held by a test
// of this package, or by the package named, or it does not concern a sidecar.
var traps = []struct {
	trap string
	held string // tests here, or
	why  string // who else holds it, or why nobody need
}{
	1:  {trap: "a resumed session outlives the client's certificate", held: "TestNoTickets TestHandshake"},
	2:  {trap: "an open connection is never checked again", held: "TestAge TestOutboundAge TestSpans"},
	3:  {trap: "grpc-go accepts a matcher and enforces nothing", why: "we configure Envoys only; rbac/compile has no target for grpc-go"},
	4:  {trap: "a refused secret poisons the next good one", why: "sds and sds/secret: nothing unchecked is sent, and the last good one is sent again"},
	5:  {trap: "Envoy's client speaks TLS 1.2 unless the maximum is set", held: "TestHandshake TestTLS12 TestTLS12Server"},
	6:  {trap: "network RBAC speaks after a server that speaks first", why: "there is no network RBAC: every listener is HTTP, and strangers end in the handshake (TestPeers)"},
	7:  {trap: "paths that are not normalised pass by a rule", held: "TestPathsArePoliciesPaths TestHeadersSeenByTheApplication TestTargetIsGos"},
	8:  {trap: ":path holds the query", held: "TestPolicy"},
	9:  {trap: "principal_name matches DNS names too", held: "TestPeers", why: "rbac/compile matches the URI alone"},
	10: {trap: "two URIs in a certificate", held: "TestPeers", why: "Envoy lets them in: ca/lint signs none, and rbac/compile says what they match"},
	11: {trap: "a policy in the listener is slow to revoke", held: "TestPolicy"},
	12: {trap: "a Go client sends nothing unless its issuer is listed", why: "sds/secret sets suppress_client_ca_list"},
	13: {trap: "the node, 61 KB, goes with each message", held: "TestOutage TestNothingWaitsInVain"},
	14: {trap: "reconnecting takes half a minute", held: "TestOutage TestNothingWaitsInVain"},
	15: {trap: "ready without a certificate", held: "TestReady TestExpiryTurnsReadyRed TestNothingWaitsInVain"},
	16: {trap: "google_grpc ends at 4 MB", held: "TestNothingWaitsInVain"},
	17: {trap: "exact_match_map on JWT metadata never matches", held: "TestTokens", why: "issuer and subject are filter state, and rbac/compile lists claims"},
	18: {trap: "network RBAC ignores url_path", why: "there is no network RBAC"},
	19: {trap: "JWKS from a file is not reloaded", held: "TestTokens", why: "rbac/compile inlines keys, and the filter is discovered"},
	20: {trap: "an empty prefix is refused", why: "rbac/compile validates what it makes"},
	21: {trap: "two Envoys on one host share a base id", held: "TestEnvoyAccepts", why: "Arguments turns hot restart off"},
	22: {trap: "the refusal of a field does not name it", held: "TestGolden", why: "Bootstrap applies Envoy's rules before it returns"},
	23: {trap: "a misspelt curve resets every connection", held: "TestCurve TestHandshake"},
	24: {trap: "one refused filter is counted at every filter of the stream", why: "counting alone: no filter waits for another"},
	25: {trap: "cel-go has moved", why: "a matter of go.mod"},
	26: {trap: "a static cluster with secrets on the aggregated stream crashes Envoy (envoy#15517)", held: "TestEnvoyStarts"},
}

// TestTraps: every trap has its test, and every test named here exists.
func TestTraps(t *testing.T) {
	if got, want := len(traps)-1, 26; got != want {
		t.Fatalf("%d traps, want %d", got, want)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.ParseFile(token.NewFileSet(), file, source, 0); err != nil {
			t.Fatal(err)
		}
		for word := range strings.FieldsFuncSeq(string(source), func(r rune) bool { return r == ' ' || r == '(' || r == '"' || r == '\n' || r == '\t' }) {
			tests[word] = strings.Contains(string(source), "func "+word+"(t *testing.T)") || strings.Contains(string(source), `t.Run("`+word+`"`) || tests[word]
		}
	}
	for i, row := range traps[1:] {
		if row.trap == "" || row.held == "" && row.why == "" {
			t.Errorf("trap %d: nobody holds it", i+1)
		}
		for name := range strings.FieldsSeq(row.held) {
			if !tests[name] {
				t.Errorf("trap %d: no test %s", i+1, name)
			}
		}
	}
}
