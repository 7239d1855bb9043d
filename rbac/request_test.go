package rbac_test

import (
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

func TestPeerWorkload(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("td.test")
	for _, row := range []struct{ id, namespace, account string }{
		{"spiffe://td.test/ns/a/sa/b", "a", "b"},
		{"spiffe://td.test/ns/a-1/sa/b.c-2", "a-1", "b.c-2"},
		{"spiffe://td.test/ns/sa/sa/sa", "sa", "sa"},
		{"spiffe://td.test/ns/ns/sa/ns", "ns", "ns"},
		{"spiffe://td.test.x/ns/a/sa/b", "", ""},
		{"spiffe://tdxtest/ns/a/sa/b", "", ""},
		{"spiffe://td.test", "", ""},
		{"spiffe://td.test/ns/a", "", ""},
		{"spiffe://td.test/ns/a/sa/b/c", "", ""},
		{"spiffe://td.test/ns/a/b/sa/c", "", ""},
		{"spiffe://td.test/x/ns/a/sa/b", "", ""},
		{"spiffe://td.test/ns/A/sa/b", "", ""},
		{"spiffe://td.test/ns/a/sa/b_c", "", ""},
		{"spiffe://td.test/ns/a/sa/.b", "", ""},
		{"spiffe://td.test/ns/a.b/sa/c", "", ""},
		{"spiffe://td.test/istio-auth/manager", "", ""},
	} {
		namespace, account, ok := rbac.Peer{ID: spiffeid.RequireFromString(row.id)}.Workload(td)
		if namespace != row.namespace || account != row.account || ok != (row.namespace != "") {
			t.Errorf("%s: got %q, %q, %v", row.id, namespace, account, ok)
		}
	}
	if _, _, ok := (rbac.Peer{}).Workload(td); ok {
		t.Error("nobody is a workload")
	}
	if _, _, ok := (rbac.Peer{}).Workload(spiffeid.TrustDomain{}); ok {
		t.Error("nobody is a workload of no trust domain")
	}
}

// TestTexts: strings, and the strings of a list; nothing else is a text.
func TestTexts(t *testing.T) {
	token := &rbac.Token{Claims: map[string]any{
		"one": "a", "empty": "", "many": []any{"a", "", "b"}, "mixed": []any{"a", 1.0, nil, true, []any{"x"}, map[string]any{"y": "z"}, "b"},
		"number": 1.0, "true": true, "null": nil, "object": map[string]any{"k": "v", "deep": map[string]any{"list": []any{"p"}}},
		"none": []any{}, "numbers": []any{1.0}, "a.b": "dotted", "a": map[string]any{"b": "nested"},
	}}
	rows := []struct {
		path []string
		want []string
	}{
		{[]string{"one"}, []string{"a"}},
		{[]string{"empty"}, []string{""}},
		{[]string{"many"}, []string{"a", "", "b"}},
		{[]string{"mixed"}, []string{"a", "b"}},
		{[]string{"number"}, nil},
		{[]string{"true"}, nil},
		{[]string{"null"}, nil},
		{[]string{"object"}, nil},
		{[]string{"object", "k"}, []string{"v"}},
		{[]string{"object", "deep", "list"}, []string{"p"}},
		{[]string{"object", "deep", "list", "0"}, nil},
		{[]string{"object", "gone"}, nil},
		{[]string{"none"}, nil},
		{[]string{"numbers"}, nil},
		{[]string{"a.b"}, []string{"dotted"}},
		{[]string{"a", "b"}, []string{"nested"}},
		{[]string{"gone"}, nil},
		{[]string{"One"}, nil},
		{[]string{"one", "more"}, nil},
		{nil, nil},
	}
	if got, want := len(rows), 20; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, row := range rows {
		if got := token.Texts(row.path...); !slices.Equal(got, row.want) {
			t.Errorf("%q: got %q, want %q", row.path, got, row.want)
		}
	}
	if got := (*rbac.Token)(nil).Texts("one"); got != nil {
		t.Errorf("no token: got %q", got)
	}
	if got := (&rbac.Token{}).Texts("one"); got != nil {
		t.Errorf("no claims: got %q", got)
	}
}

func TestPlainMethod(t *testing.T) {
	for method, want := range map[string]bool{
		"GET": true, "M-SEARCH": true, "A": true, "GET-": true,
		"": false, "get": false, "Get": false, "-GET": false, "-": false, "G T": false, "GET1": false, "GET\x00": false, "G\xc9T": false,
	} {
		if got := rbac.PlainMethod(method); got != want {
			t.Errorf("%q: got %v, want %v", method, got, want)
		}
	}
}
