package mesh_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/test/envoy"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// whole is a sidecar with everything.
func whole() mesh.Sidecar {
	return mesh.Sidecar{
		Workload:        serverID,
		AgentSocket:     "/run/istio-auth/workload/socket",
		RuntimeDir:      "/run/envoy",
		CertificateLife: 6 * time.Hour,
		StatusAddress:   "0.0.0.0:15021",
		Inbound:         mesh.Inbound{Listen: "0.0.0.0:15006", App: "127.0.0.1:8080"},
		Outbound: []mesh.Upstream{
			{Name: "web", Listen: "127.0.0.1:15001", Address: "web.shop.svc.cluster.local:15006", Servers: []spiffeid.ID{clientID}},
			{Name: "db", Listen: "[::1]:15002", Address: "10.0.0.7:15006", Servers: []spiffeid.ID{clientID, serverID}},
		},
		Providers: []mesh.Provider{
			{Name: "own", GRPC: "/run/istio-auth/authz.sock", Lines: true},
			{Name: "web-judge", HTTP: "judge.shop:15006", Servers: []spiffeid.ID{clientID}, Timeout: 2 * time.Second, PathPrefix: "/check", Headers: []string{"cookie"}, Pass: []string{"x-user"}},
		},
		AccessLog: "/var/log/envoy/access.json",
	}
}

func golden() map[string]mesh.Sidecar {
	client := whole()
	client.Inbound, client.StatusAddress, client.AccessLog, client.Providers = mesh.Inbound{}, "", "", nil
	client.Outbound = client.Outbound[:1]
	server := whole()
	server.Outbound, server.CertificateLife, server.AccessLog, server.Providers = nil, 10*time.Second, "", nil
	return map[string]mesh.Sidecar{"whole": whole(), "client": client, "server": server}
}

func TestGolden(t *testing.T) {
	for name, s := range golden() {
		t.Run(name, func(t *testing.T) {
			got, err := mesh.YAML(s)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".out.yaml")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("-want +got (rewrite with -update):\n%s", diff)
			}
		})
	}
}

// TestEnvoyAccepts what the goldens hold, with unknown fields refused.
func TestEnvoyAccepts(t *testing.T) {
	for name, s := range golden() {
		t.Run(name, func(t *testing.T) {
			s.AccessLog = ""
			config, err := mesh.YAML(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := envoy.Validate(t, envoy.Config{YAML: config, Args: mesh.Arguments()}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRefusals: a sidecar is refused for what it lacks, with a reason.
func TestRefusals(t *testing.T) {
	id := spiffeid.RequireFromString
	type row struct {
		change func(*mesh.Sidecar)
		want   string // "field reason", "" is accepted
	}
	up := func(f func(*mesh.Upstream)) func(*mesh.Sidecar) {
		return func(s *mesh.Sidecar) { f(&s.Outbound[0]) }
	}
	ask := func(f func(*mesh.Provider)) func(*mesh.Sidecar) {
		return func(s *mesh.Sidecar) { f(&s.Providers[1]) }
	}
	ours := func(at string, lines bool) func(*mesh.Sidecar) {
		return ask(func(p *mesh.Provider) { *p = mesh.Provider{Name: mesh.OwnProvider, GRPC: at, Lines: lines} })
	}
	table := map[string]row{
		"whole":           {func(*mesh.Sidecar) {}, ""},
		"five seconds":    {func(s *mesh.Sidecar) { s.CertificateLife = 5 * time.Second }, ""},
		"a day":           {func(s *mesh.Sidecar) { s.CertificateLife = 24 * time.Hour }, ""},
		"no status":       {func(s *mesh.Sidecar) { s.StatusAddress = "" }, ""},
		"IPv6":            {func(s *mesh.Sidecar) { s.Inbound.Listen = "[::]:15006" }, ""},
		"rooted name":     {up(func(u *mesh.Upstream) { u.Address = "web.shop.svc.cluster.local.:1" }), ""},
		"upper-case name": {up(func(u *mesh.Upstream) { u.Address = "Web:1" }), ""},

		"no workload":      {func(s *mesh.Sidecar) { s.Workload = spiffeid.ID{} }, "workload id-missing"},
		"an agent":         {func(s *mesh.Sidecar) { s.Workload = id("spiffe://td.test/istio-auth/node/n/u") }, "workload id-not-a-workload"},
		"domain alone":     {func(s *mesh.Sidecar) { s.Workload = id("spiffe://td.test") }, "workload id-not-a-workload"},
		"no socket":        {func(s *mesh.Sidecar) { s.AgentSocket = "" }, "agentSocket path-missing"},
		"relative socket":  {func(s *mesh.Sidecar) { s.AgentSocket = "socket" }, "agentSocket path-not-absolute"},
		"abstract socket":  {func(s *mesh.Sidecar) { s.AgentSocket = "@socket" }, "agentSocket path-not-absolute"},
		"unclean socket":   {func(s *mesh.Sidecar) { s.AgentSocket = "/a/../b" }, "agentSocket path-not-absolute"},
		"long socket":      {func(s *mesh.Sidecar) { s.AgentSocket = "/" + strings.Repeat("x", 107) }, "agentSocket path-too-long"},
		"percent":          {func(s *mesh.Sidecar) { s.AgentSocket = "/a%b" }, "agentSocket path-unprintable"},
		"new line":         {func(s *mesh.Sidecar) { s.RuntimeDir = "/a\nb" }, "runtimeDir path-unprintable"},
		"no directory":     {func(s *mesh.Sidecar) { s.RuntimeDir = "" }, "runtimeDir path-missing"},
		"long directory":   {func(s *mesh.Sidecar) { s.RuntimeDir = "/" + strings.Repeat("x", 100) }, "runtimeDir path-too-long"},
		"relative log":     {func(s *mesh.Sidecar) { s.AccessLog = "log" }, "accessLog path-not-absolute"},
		"no life":          {func(s *mesh.Sidecar) { s.CertificateLife = 0 }, "certificateLife life-out-of-range"},
		"short life":       {func(s *mesh.Sidecar) { s.CertificateLife = 5*time.Second - 1 }, "certificateLife life-out-of-range"},
		"long life":        {func(s *mesh.Sidecar) { s.CertificateLife = 24*time.Hour + 1 }, "certificateLife life-out-of-range"},
		"nothing to do":    {func(s *mesh.Sidecar) { s.Inbound, s.Outbound, s.Providers = mesh.Inbound{}, nil, nil }, "inbound nothing-to-do"},
		"no port":          {func(s *mesh.Sidecar) { s.Inbound.Listen = "0.0.0.0" }, "inbound.listen address-malformed"},
		"port zero":        {func(s *mesh.Sidecar) { s.Inbound.Listen = "0.0.0.0:0" }, "inbound.listen port-zero"},
		"big port":         {func(s *mesh.Sidecar) { s.Inbound.Listen = "0.0.0.0:65536" }, "inbound.listen address-malformed"},
		"name":             {func(s *mesh.Sidecar) { s.Inbound.Listen = "localhost:80" }, "inbound.listen address-malformed"},
		"all addresses":    {func(s *mesh.Sidecar) { s.Inbound.Listen = ":15006" }, "inbound.listen address-malformed"},
		"octal":            {func(s *mesh.Sidecar) { s.Inbound.Listen = "010.0.0.1:80" }, "inbound.listen address-malformed"},
		"zone":             {func(s *mesh.Sidecar) { s.Inbound.Listen = "[fe80::1%eth0]:80" }, "inbound.listen address-not-canonical"},
		"mapped":           {func(s *mesh.Sidecar) { s.Inbound.Listen = "[::ffff:1.2.3.4]:80" }, "inbound.listen address-not-canonical"},
		"long IPv6":        {func(s *mesh.Sidecar) { s.Inbound.Listen = "[0:0::1]:80" }, "inbound.listen address-not-canonical"},
		"leading zero":     {func(s *mesh.Sidecar) { s.Inbound.Listen = "0.0.0.0:015006" }, "inbound.listen address-not-canonical"},
		"only app":         {func(s *mesh.Sidecar) { s.Inbound.Listen = "" }, "inbound.listen address-missing"},
		"no app":           {func(s *mesh.Sidecar) { s.Inbound.App = "" }, "inbound.app address-missing"},
		"app outside":      {func(s *mesh.Sidecar) { s.Inbound.App = "10.0.0.1:80" }, "inbound.app address-not-loopback"},
		"app everywhere":   {func(s *mesh.Sidecar) { s.Inbound.App = "0.0.0.0:80" }, "inbound.app address-not-loopback"},
		"app is status":    {func(s *mesh.Sidecar) { s.Inbound.App, s.StatusAddress = "127.0.0.1:80", "127.0.0.1:80" }, "inbound.app address-taken"},
		"status malformed": {func(s *mesh.Sidecar) { s.StatusAddress = "15021" }, "statusAddress address-malformed"},

		"no name":            {up(func(u *mesh.Upstream) { u.Name = "" }), "outbound[0].name name-malformed"},
		"dotted name":        {up(func(u *mesh.Upstream) { u.Name = "a.b" }), "outbound[0].name name-malformed"},
		"dash first":         {up(func(u *mesh.Upstream) { u.Name = "-a" }), "outbound[0].name name-malformed"},
		"upper case":         {up(func(u *mesh.Upstream) { u.Name = "Web" }), "outbound[0].name name-malformed"},
		"long name":          {up(func(u *mesh.Upstream) { u.Name = strings.Repeat("a", 64) }), "outbound[0].name name-malformed"},
		"same name":          {func(s *mesh.Sidecar) { s.Outbound[1].Name = "web" }, "outbound[1].name name-taken"},
		"listens outside":    {up(func(u *mesh.Upstream) { u.Listen = "0.0.0.0:15001" }), "outbound[0].listen address-not-loopback"},
		"same port":          {func(s *mesh.Sidecar) { s.Outbound[1].Listen = s.Outbound[0].Listen }, "outbound[1].listen address-taken"},
		"no address":         {up(func(u *mesh.Upstream) { u.Address = "" }), "outbound[0].address address-missing"},
		"no target port":     {up(func(u *mesh.Upstream) { u.Address = "web" }), "outbound[0].address address-malformed"},
		"target port zero":   {up(func(u *mesh.Upstream) { u.Address = "web:0" }), "outbound[0].address port-zero"},
		"named port":         {up(func(u *mesh.Upstream) { u.Address = "web:http" }), "outbound[0].address address-malformed"},
		"signed port":        {up(func(u *mesh.Upstream) { u.Address = "web:+80" }), "outbound[0].address address-malformed"},
		"no host":            {up(func(u *mesh.Upstream) { u.Address = ":80" }), "outbound[0].address address-malformed"},
		"wildcard host":      {up(func(u *mesh.Upstream) { u.Address = "*.shop:80" }), "outbound[0].address address-malformed"},
		"unspecified host":   {up(func(u *mesh.Upstream) { u.Address = "0.0.0.0:80" }), "outbound[0].address address-malformed"},
		"almost IPv4":        {up(func(u *mesh.Upstream) { u.Address = "1.2.3:80" }), "outbound[0].address address-malformed"},
		"empty label":        {up(func(u *mesh.Upstream) { u.Address = "a..b:80" }), "outbound[0].address address-malformed"},
		"underscore host":    {up(func(u *mesh.Upstream) { u.Address = "a_b:80" }), "outbound[0].address address-malformed"},
		"long host":          {up(func(u *mesh.Upstream) { u.Address = strings.Repeat("abcdefgh.", 29) + "x:80" }), "outbound[0].address address-malformed"},
		"URL":                {up(func(u *mesh.Upstream) { u.Address = "https://web:80" }), "outbound[0].address address-malformed"},
		"no servers":         {up(func(u *mesh.Upstream) { u.Servers = nil }), "outbound[0].servers servers-missing"},
		"empty servers":      {up(func(u *mesh.Upstream) { u.Servers = []spiffeid.ID{} }), "outbound[0].servers servers-missing"},
		"zero server":        {up(func(u *mesh.Upstream) { u.Servers = []spiffeid.ID{{}} }), "outbound[0].servers[0] id-missing"},
		"server of ours":     {up(func(u *mesh.Upstream) { u.Servers[0] = id("spiffe://td.test/istio-auth/ca") }), "outbound[0].servers[0] id-not-a-workload"},
		"foreign server":     {up(func(u *mesh.Upstream) { u.Servers[0] = id("spiffe://other.test/ns/a/sa/b") }), "outbound[0].servers[0] server-foreign"},
		"server named twice": {up(func(u *mesh.Upstream) { u.Servers = []spiffeid.ID{clientID, clientID} }), "outbound[0].servers[1] server-repeated"},

		"provider on loopback":     {ask(func(p *mesh.Provider) { p.HTTP, p.Servers = "127.0.0.1:9000", nil }), ""},
		"provider behind a socket": {ask(func(p *mesh.Provider) { p.HTTP, p.Servers = "/run/judge.sock", nil }), ""},
		"provider without name":    {ask(func(p *mesh.Provider) { p.Name = "" }), "providers[1].name name-malformed"},
		"dotted provider":          {ask(func(p *mesh.Provider) { p.Name = "a.b" }), "providers[1].name name-malformed"},
		"same provider":            {ask(func(p *mesh.Provider) { p.Name = "own" }), "providers[1].name provider-taken"},
		"ours":                     {ours("/run/istio-auth/workload/authz.sock", true), ""},
		"ours elsewhere":           {ours("/run/other/authz.sock", true), "providers[1] provider-not-ours"},
		"ours over TCP":            {ours("127.0.0.1:9000", true), "providers[1] provider-not-ours"},
		"ours at the agent's":      {ours("/run/istio-auth/workload/socket", true), "providers[1] provider-not-ours"},
		"ours without lines":       {ours("/run/istio-auth/workload/authz.sock", false), "providers[1] provider-not-ours"},
		"ours over HTTP": {ask(func(p *mesh.Provider) {
			*p = mesh.Provider{Name: "istio-auth", HTTP: "/run/istio-auth/workload/authz.sock"}
		}), "providers[1] provider-not-ours"},
		"provider nowhere":           {ask(func(p *mesh.Provider) { p.HTTP = "" }), "providers[1] provider-protocol"},
		"provider twice":             {ask(func(p *mesh.Provider) { p.HTTP, p.GRPC, p.PathPrefix, p.Headers, p.Pass = "a:1", "a:1", "", nil, nil }), "providers[1] provider-protocol"},
		"lines over HTTP":            {ask(func(p *mesh.Provider) { p.Lines = true }), "providers[1] provider-protocol"},
		"prefix over gRPC":           {ask(func(p *mesh.Provider) { p.GRPC, p.HTTP = p.HTTP, "" }), "providers[1] provider-protocol"},
		"plaintext to elsewhere":     {ask(func(p *mesh.Provider) { p.HTTP, p.Servers = "10.0.0.7:9000", nil }), "providers[1].http servers-missing"},
		"plaintext to a name":        {ask(func(p *mesh.Provider) { p.Servers = nil }), "providers[1].http address-malformed"},
		"identities behind a socket": {ask(func(p *mesh.Provider) { p.HTTP = "/run/judge.sock" }), "providers[1].servers servers-of-a-socket"},
		"relative socket of one":     {ask(func(p *mesh.Provider) { p.HTTP, p.Servers = "/run/../judge.sock", nil }), "providers[1].http path-not-absolute"},
		"foreign provider":           {ask(func(p *mesh.Provider) { p.Servers[0] = id("spiffe://other.test/ns/a/sa/b") }), "providers[1].servers[0] server-foreign"},
		"endless patience":           {ask(func(p *mesh.Provider) { p.Timeout = time.Hour }), "providers[1].timeout timeout-out-of-range"},
		"no patience":                {ask(func(p *mesh.Provider) { p.Timeout = -1 }), "providers[1].timeout timeout-out-of-range"},
		"odd prefix":                 {ask(func(p *mesh.Provider) { p.PathPrefix = "/a?b" }), "providers[1].pathPrefix path-malformed"},
		"upper-case header":          {ask(func(p *mesh.Provider) { p.Headers = []string{"Cookie"} }), "providers[1] header-malformed"},
		"the host passed on":         {ask(func(p *mesh.Provider) { p.Pass = []string{"host"} }), "providers[1] header-malformed"},
		"the peer passed on":         {ask(func(p *mesh.Provider) { p.Pass = []string{"x-forwarded-client-cert"} }), "providers[1] header-malformed"},
		"a pseudo-header passed on":  {ask(func(p *mesh.Provider) { p.Pass = []string{":path"} }), "providers[1] header-malformed"},
		"nothing to ask about":       {func(s *mesh.Sidecar) { s.Inbound = mesh.Inbound{} }, "providers nothing-to-ask-about"},
	}
	if got, want := len(table), 95; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	for name, row := range table {
		t.Run(name, func(t *testing.T) {
			s := whole()
			row.change(&s)
			_, err := mesh.Bootstrap(s)
			got := ""
			if p, ok := errors.AsType[*mesh.Problem](err); ok {
				got = p.Field + " " + p.Reason
			} else if err != nil {
				got = err.Error()
			}
			if got != row.want {
				t.Errorf("got %q, want %q (%v)", got, row.want, err)
			}
		})
	}
}

// TestAllProblemsAtOnce: the zero value lists everything that it lacks.
func TestAllProblemsAtOnce(t *testing.T) {
	err := mesh.Sidecar{}.Validate()
	for _, reason := range []string{"id-missing", "path-missing", "life-out-of-range", "nothing-to-do"} {
		if !strings.Contains(err.Error(), reason) {
			t.Errorf("%v: does not say %s", err, reason)
		}
	}
}

// TestNothingWaitsInVain: every source of every discovered resource waits for
// ever, comes from the agent, and is the same bytes each time (envoy#47309).
func TestNothingWaitsInVain(t *testing.T) {
	config, err := mesh.Bootstrap(whole())
	if err != nil {
		t.Fatal(err)
	}
	sources := 0
	walk(t, config, func(m proto.Message) {
		switch m := m.(type) {
		case *corev3.ConfigSource:
			sources++
			if d := m.InitialFetchTimeout; d == nil || d.AsDuration() != 0 {
				t.Errorf("a source that gives up after %v", d)
			}
			if m.ResourceApiVersion != corev3.ApiVersion_V3 {
				t.Errorf("a source of %v", m.ResourceApiVersion)
			}
		case *corev3.ApiConfigSource:
			if !m.SetNodeOnFirstMessageOnly || m.ApiType != corev3.ApiConfigSource_DELTA_GRPC {
				t.Errorf("%v", m)
			}
		case *corev3.GrpcService:
			// google_grpc ends at 4 MB, and loops.
			if m.GetEnvoyGrpc().GetClusterName() == "provider-own" {
				break // nobody repeats what a provider did not answer in time
			}
			if m.GetEnvoyGrpc().GetRetryPolicy().GetRetryBackOff().GetMaxInterval().AsDuration() != time.Second {
				t.Errorf("%v", m)
			}
		case *corev3.DataSource:
			if m.GetInlineBytes() != nil || m.GetFilename() != "" {
				t.Errorf("the bootstrap holds, or reads, data: %v", m)
			}
		}
	})
	// Two secrets for each of inbound, probe, and four clusters; three filters, and
	// one for each of two providers.
	if sources != 17 {
		t.Errorf("%d sources, want 17", sources)
	}
}

// walk visits m and all within it, in Any too.
func walk(t *testing.T, m proto.Message, visit func(proto.Message)) {
	t.Helper()
	visit(m)
	if a, ok := m.(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		walk(t, inner, visit)
		return
	}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					walk(t, v.Message().Interface(), visit)
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				walk(t, v.List().Get(i).Message().Interface(), visit)
			}
		default:
			walk(t, v.Message().Interface(), visit)
		}
		return true
	})
}
