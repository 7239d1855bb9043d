package envoy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"github.com/istio-auth/istio-auth/test/envoy"
)

// The admin address is replaced by the harness's own: 198.51.100.1 is nobody's.
const hello = `
admin: {address: {socket_address: {address: 198.51.100.1, port_value: 9901}}}
static_resources:
  listeners:
  - name: hello
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hello
          access_log:
          - name: stdout
            typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: hello}}}]}
          http_filters:
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
`

func TestStart(t *testing.T) {
	e := envoy.Start(t, envoy.Config{YAML: []byte(hello)})
	resp, err := http.Get("http://" + e.Address(t, "hello").String() + "/path")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" {
		t.Errorf("got %q, %v", body, err)
	}
	if got, ok := e.Stat(t, "http.hello.downstream_rq_2xx"); !ok || got != 1 {
		t.Errorf("counted %d requests (there: %t), want 1", got, ok)
	}
	e.Post(t, "/reopen_logs") // flushes
	e.Until(t, "the access log", func() bool { return strings.Contains(e.Stdout(), "GET /path") })
	e.Stop()
	select {
	case <-e.Done():
	default:
		t.Error("Envoy lives after Stop")
	}
}

func TestStartWithMessage(t *testing.T) {
	e := envoy.Start(t, envoy.Config{Proto: &bootstrapv3.Bootstrap{}})
	if got := e.Admin(t, "/server_info"); !strings.Contains(got, `"state": "LIVE"`) || !strings.Contains(got, "/"+envoy.Version+"/") {
		t.Errorf("got %s", got)
	}
}

func TestValidate(t *testing.T) {
	if err := envoy.Validate(t, envoy.Config{YAML: []byte(hello)}); err != nil {
		t.Error(err)
	}
	err := envoy.Validate(t, envoy.Config{YAML: []byte(strings.Replace(hello, "stat_prefix", "stat_suffix", 1))})
	if err == nil || !strings.Contains(err.Error(), "stat_suffix") {
		t.Errorf("got %v, want Envoy's refusal of stat_suffix", err)
	}
}
