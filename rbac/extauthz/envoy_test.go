package extauthz_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/extauthz"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// The filters of the design, by hand: what a compiled filter has for an ALLOW
// with a comparison, which needs yes, and for a DENY with one, which no alone
// holds off.
const (
	askingBootstrap = `{
static_resources: {
 clusters: [{name: provider, type: STATIC, connect_timeout: 1s,
  typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}},
  load_assignment: {cluster_name: provider, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[1]q}}}}]}]}}],
 listeners: [{name: in, address: {socket_address: {address: 127.0.0.1, port_value: 0}},
  filter_chains: [{filters: [{name: envoy.filters.network.http_connection_manager, typed_config: {
   "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: in,
   normalize_path: true, merge_slashes: true, path_with_escaped_slashes_action: REJECT_REQUEST, use_remote_address: true,
   route_config: {name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]},
   local_reply_config: {mappers: [{filter: {status_code_filter: {comparison: {op: GE, value: {default_value: 100, runtime_key: none}}}}, headers_to_add: [
    {header: {key: x-details, value: "%%RESPONSE_CODE_DETAILS%%"}},
    {header: {key: x-namespace, value: "%%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%%"}},
    {header: {key: x-by-name, value: "%%DYNAMIC_METADATA(ask)%%"}}]}]},
   http_filters: [
    {name: token, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config,
     metadata: [{metadata_namespace: envoy.filters.http.jwt_authn, value: {payload: {iss: i, sub: ann}}}]}},
    {name: ask, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz,
     transport_api_version: V3, status_on_error: {code: Forbidden}, encode_raw_headers: true, include_tls_session: true,
     enable_dynamic_metadata_ingestion: %[2]t, metadata_context_namespaces: [envoy.filters.http.jwt_authn],
     grpc_service: {envoy_grpc: {cluster_name: provider}, timeout: 5s}}},
    {name: decide, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, matcher: {
     matcher_list: {matchers: [
      {predicate: {not_matcher: {single_predicate: %[4]s}}, on_match: {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: deny, action: DENY}}}},
      {predicate: {single_predicate: %[3]s}, on_match: {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: allow}}}}]},
     on_no_match: {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: no-allow-match, action: DENY}}}}}},
    {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}]}}`
	listHas = `{input: {name: i, typed_config: {"@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput,
 filter: envoy.filters.http.ext_authz, path: [{key: %q}]}},
 custom_match: {name: m, typed_config: {"@type": type.googleapis.com/envoy.extensions.matching.input_matchers.metadata.v3.Metadata,
 value: {list_match: {one_of: {string_match: {exact: %q}}}}}}}`
)

// TestEnvoyTakesTheWord: with the provider's metadata a filter lets in what a
// comparison allows, and refuses what one denies; and without the metadata, or
// the provider, it lets nobody in.
func TestEnvoyTakesTheWord(t *testing.T) {
	claim, err := rbac.ClaimAttr("sub")
	if err != nil {
		t.Fatal(err)
	}
	tenant, err := rbac.HeaderAttr("x-tenant")
	if err != nil {
		t.Fatal(err)
	}
	mine := rbac.Comparison{Left: rbac.Attr(rbac.Path), How: rbac.Prefix, Lead: "/users/", Right: claim, Trail: "/"}
	banned := rbac.Comparison{Left: rbac.Attr(rbac.Host), How: rbac.Exact, Right: tenant}
	rule := func(c rbac.Comparison) []rbac.Rule {
		return []rbac.Rule{{Expression: &rbac.Expression{Op: rbac.Compare, Comparison: c}}}
	}
	set := rbac.Select([]rbac.Policy{
		{Namespace: "shop", Name: "mine", Action: rbac.Allow, Rules: rule(mine)},
		{Namespace: "shop", Name: "banned", Action: rbac.Deny, Rules: rule(banned)},
	}, rbac.Target{Namespace: "shop", TrustDomain: domain, Plaintext: true, Providers: []string{extauthz.Name}})

	var lenient atomic.Bool // answers by another set, which lets all in and compares the same
	var reads sync.Mutex    // guards last
	var last extauthz.Answer
	wide := rbac.Select([]rbac.Policy{
		{Namespace: "shop", Name: "other", Action: rbac.Allow, Rules: []rbac.Rule{{}}},
		{Namespace: "shop", Name: "old", Action: rbac.Allow, Rules: rule(mine)},
		{Namespace: "shop", Name: "mark", Action: rbac.Audit, Rules: rule(banned)},
	}, rbac.Target{Namespace: "shop", TrustDomain: domain, Plaintext: true})
	server := grpc.NewServer(extauthz.Options()...)
	(&extauthz.Server{
		Sets: func(context.Context) (rbac.Set, error) {
			if lenient.Load() {
				return wide, nil
			}
			return set, nil
		},
		Observe: func(a extauthz.Answer) {
			reads.Lock()
			defer reads.Unlock()
			last = a
		},
	}).Register(server)
	socket := filepath.Join(t.TempDir(), "p.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Stop(); <-served }()

	start := func(ingest bool) *client {
		yes := fmt.Sprintf(listHas, extauthz.YesKey, mine.Name(set.Domains()))
		no := fmt.Sprintf(listHas, extauthz.NoKey, banned.Name(set.Domains()))
		e := envoy.Start(t, envoy.Config{YAML: fmt.Appendf(nil, askingBootstrap, socket, ingest, yes, no)})
		return &client{address: e.Address(t, "in").String()}
	}
	told, untold := start(true), start(false)
	table := []struct {
		name, path, headers string
		code                int
		reason              eval.Reason
		line                string // of the filter, where the provider says yes all the same
	}{
		{"one's own", "/users/ann/a", "X-Tenant: shop\r\n", 200, eval.AllowRule, ""},
		{"another's", "/users/bob/a", "X-Tenant: shop\r\n", 403, eval.NoAllowMatch, "no-allow-match"},
		{"banned", "/users/ann/a", "X-Tenant: cart\r\n", 403, eval.DenyRule, "deny"},
		{"perhaps banned", "/users/ann/a", "X-Tenant: shop\r\nX-Tenant: cart\r\n", 403, eval.DenyRule, "deny"},
		{"of no tenant", "/users/ann/a", "", 200, eval.AllowRule, ""},
		{"perhaps one's own", "/users/ann/..%252fbob", "X-Tenant: shop\r\n", 403, eval.NoAllowMatch, "no-allow-match"},
	}
	for _, row := range table {
		got := told.get(t, row.path, row.headers)
		reads.Lock()
		a := last
		reads.Unlock()
		if got.code != row.code || a.Err != nil || a.Verdict.Reason != row.reason {
			t.Errorf("%s: %+v, provider %+v, %v", row.name, got, a.Verdict, a.Err)
		}
		if want := `"reason":"` + string(row.reason) + `"`; !strings.Contains(got.namespace, want) || got.byName != "-" && got.byName != "" {
			t.Errorf("%s: metadata of ext_authz is %q, by the filter's name %q, want %s in the former", row.name, got.namespace, got.byName, want)
		}
		// Envoy that does not take metadata lets nobody in: as if nobody had been asked.
		if got := untold.get(t, row.path, row.headers); got.code != 403 {
			t.Errorf("%s: without metadata %+v", row.name, got)
		}
	}
	// The filter reads the word for each comparison, not the yes: the policies of
	// the two need not be of one age.
	lenient.Store(true)
	for _, row := range table {
		if got := told.get(t, row.path, row.headers); got.code != row.code || row.line != "" && got.details != matched(row.line) {
			t.Errorf("%s: with a yes to everything %+v, want %d", row.name, got, row.code)
		}
	}
	if got := untold.get(t, "/users/ann/a", "X-Tenant: shop\r\n"); got.code != 403 || got.details != matched("deny") {
		t.Errorf("a yes without metadata: %+v, want 403 by the DENY", got)
	}
	many(t, told)

	server.Stop()
	for _, row := range table {
		if got := told.get(t, row.path, row.headers); got.code != 403 || got.details != "ext_authz_error" {
			t.Errorf("%s: without a provider %+v, want 403", row.name, got)
		}
	}
}

func matched(line string) string { return "rbac_access_denied_matched_policy[" + line + "]" }

// many: at once, each gets their own answer.
func many(t *testing.T, c *client) {
	var wait sync.WaitGroup
	for i := range 200 {
		wait.Go(func() {
			path, want := "/users/ann/"+strconv.Itoa(i), 200
			if i%2 == 1 {
				path, want = "/users/bob/"+strconv.Itoa(i), 403
			}
			if got := c.get(t, path, "X-Tenant: shop\r\n"); got.code != want {
				t.Errorf("%s: %+v, want %d", path, got, want)
			}
		})
	}
	wait.Wait()
}

type client struct{ address string }

type result struct {
	code                       int
	details, namespace, byName string
}

func (c *client) get(t *testing.T, path, headers string) result {
	t.Helper()
	conn, err := net.DialTimeout("tcp", c.address, 5*time.Second)
	if err != nil {
		t.Error(err)
		return result{}
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n"+headers+"\r\n")
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Error(err)
		return result{}
	}
	defer r.Body.Close()
	return result{r.StatusCode, r.Header.Get("X-Details"), r.Header.Get("X-Namespace"), r.Header.Get("X-By-Name")}
}
