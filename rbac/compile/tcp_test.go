package compile_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	echov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/echo/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// firstPort is the source port, as the PROXY protocol tells it, by which a
// connection chooses set 0: the next is set 1. Policy does not see it.
const firstPort = 10000

// startTCP runs an Envoy with a filter chain for each of the sets, by their
// numbers, with network RBAC in front of an echo. What it decided it writes to
// the file, once it has ended.
func startTCP(t testing.TB, ca *authority, sets map[int]rbac.Set) (w *world, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "tcp.log")
	var secure, insecure []*listenerv3.FilterChain
	socket := ca.transportSocket(t)
	for i, set := range sets {
		compiled, err := compile.TCP(set)
		if err != nil {
			t.Fatal(err)
		}
		chain := &listenerv3.FilterChain{
			Name:             fmt.Sprintf("c%d", i),
			FilterChainMatch: &listenerv3.FilterChainMatch{SourcePorts: []uint32{uint32(firstPort + i)}},
			Filters: []*listenerv3.Filter{
				network("envoy.filters.network.set_filter_state", peerState(t)),
				network("envoy.filters.network.rbac", compiled),
				network("envoy.filters.network.echo", pack(t, &echov3.Echo{})),
			},
		}
		insecure = append(insecure, chain)
		inTLS := proto.CloneOf(chain)
		inTLS.TransportSocket = socket
		secure = append(secure, inTLS)
	}
	door := func(name string, chains []*listenerv3.FilterChain) *listenerv3.Listener {
		return &listenerv3.Listener{Name: name, Address: address(), ListenerFilters: inspectors(t), FilterChains: chains, AccessLog: tcpLog(t, file)}
	}
	e := envoy.Start(t, envoy.Config{Proto: &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{
		Listeners: []*listenerv3.Listener{door("mtls", secure), door("insecure", insecure)},
	}}})
	return &world{ca: ca, envoy: e, mtls: e.Address(t, "mtls"), insecure: e.Address(t, "insecure")}, file
}

func network(name string, config *anypb.Any) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config}}
}

// peerState is compile.PeerKey for a connection.
func peerState(t testing.TB) *anypb.Any {
	return pack(t, &setstatev3.Config{OnDownstreamTlsHandshake: []*filterstatev3.FilterStateValue{textState(compile.PeerKey, "%DOWNSTREAM_PEER_URI_SAN%")}})
}

// textState puts a text into filter state, unless it is empty.
func textState(key, format string) *filterstatev3.FilterStateValue {
	return &filterstatev3.FilterStateValue{
		Key:         &filterstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
		FactoryKey:  "envoy.string",
		ReadOnly:    true,
		SkipIfEmpty: true,
		Value: &filterstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
			OmitEmptyValues: true,
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: format},
			}},
		}},
	}
}

func tcpLog(t testing.TB, file string) []*accesslogv3.AccessLog {
	format, err := structpb.NewStruct(map[string]any{
		"From":    "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_PORT%",
		"Details": "%CONNECTION_TERMINATION_DETAILS%",
		"Dry":     "%DYNAMIC_METADATA(envoy.filters.network.rbac:" + compile.TrialPrefix + "shadow_effective_policy_id)%",
	})
	if err != nil {
		t.Fatal(err)
	}
	return []*accesslogv3.AccessLog{{Name: "file", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: pack(t, &filev3.FileAccessLog{
		Path:            file,
		AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: format}}},
	})}}}
}

// again is said of a connection whose addresses another had before it, so that
// it cannot be told which of them a line of the log is of.
const again = "again"

// A tcpAnswer is what Envoy decided on a connection.
type tcpAnswer struct {
	From, Details, Dry string
	allowed            bool
	err                error
}

// decideTCP has a new Envoy decide cases of TCP. It returns those that eval
// decides otherwise.
func decideTCP(t *testing.T, ca *authority, cases []rbactest.Case, n *tally) []mismatch {
	t.Helper()
	sets, compiled := map[int]rbac.Set{}, map[int]rbac.Set{}
	for _, c := range cases {
		if _, known := sets[c.Set]; !known {
			compiled[c.Set] = c.Selected(testTokens.keys())
			c.Policies = withoutComparisons(c.Policies)
			sets[c.Set] = c.Selected(testTokens.keys())
		}
	}
	w, file := startTCP(t, ca, compiled)
	got := make([]tcpAnswer, len(cases))
	const workers = 16
	var wait sync.WaitGroup
	for worker := range workers {
		wait.Go(func() {
			for i := worker; i < len(cases); i += workers {
				dial := w.dialer(t, cases[i].Call.Connection, w.mtls, w.insecure)
				got[i] = echo(dial, firstPort+cases[i].Set)
			}
		})
	}
	wait.Wait()
	w.envoy.Stop()
	logged := readLog(t, file)
	var found []mismatch
	for i, c := range cases {
		if from, ok := logged[got[i].From]; ok {
			got[i].Details, got[i].Dry = from.Details, from.Dry
		}
		if m := judgeTCP(sets[c.Set], c, got[i], n); m.is() {
			found = append(found, m)
		}
	}
	return found
}

// echo asks for a text back.
func echo(dial func(int) (net.Conn, error), port int) tcpAnswer {
	conn, err := dial(port)
	if err != nil {
		return tcpAnswer{err: err}
	}
	defer conn.Close()
	a := tcpAnswer{From: fmt.Sprintf("%s %d", conn.LocalAddr(), port)}
	// A peer that is refused by TLS itself would be one that the test made
	// wrongly: that it got that far is what the log says.
	// The inspector of TLS waits for as much as tells it that this is none.
	if _, err := conn.Write([]byte("echo this to me")); err != nil {
		a.err = err
		return a
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		a.err = err
		return a
	}
	n, err := conn.Read(make([]byte, 1))
	if a.allowed = n == 1; errors.Is(err, os.ErrDeadlineExceeded) {
		a.err = err // neither an answer nor an end
	}
	return a
}

func readLog(t testing.TB, file string) map[string]tcpAnswer {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := map[string]tcpAnswer{}
	for s := bufio.NewScanner(f); s.Scan(); {
		var a tcpAnswer
		if err := json.Unmarshal(s.Bytes(), &a); err != nil {
			t.Fatalf("%s: %v", s.Bytes(), err)
		}
		if _, twice := lines[a.From]; twice {
			a.Details = again
		}
		lines[a.From] = a
	}
	return lines
}

// judgeTCP compares what Envoy has decided with what eval says. Envoy names the
// line of a refusal only.
func judgeTCP(set rbac.Set, a rbactest.Case, got tcpAnswer, n *tally) mismatch {
	m := mismatch{input: a}
	n.n.Add(1)
	if got.err != nil {
		m.got = got.err.Error()
		return m
	}
	req, err := a.Request()
	if err != nil {
		m.want = err.Error()
		return m
	}
	v := eval.Decide(set, req)
	n.add("tcp", "tcp "+string(v.Reason))
	if len(v.Ask) > 0 {
		// There is nobody to be asked about a connection: it is refused.
		m.want, m.got = "false", fmt.Sprint(got.allowed)
		return m
	}
	m.want = fmt.Sprintf("%v %s", v.Allowed, v.Reason)
	m.got = fmt.Sprintf("%v %s", got.allowed, v.Reason)
	if line, ok := strings.CutPrefix(got.Details, "rbac_access_denied_matched_policy["); ok && !got.allowed {
		m.got = fmt.Sprintf("%v %s", got.allowed, reason(set, req, answer{code: 403, details: got.Details, line: strings.TrimSuffix(line, "]")}))
	} else if !got.allowed && got.Details != again && !(v.Reason == eval.NoIdentity && req.Peer.ID.IsZero()) {
		m.got = fmt.Sprintf("closed: %+v", got)
	}
	return m
}
