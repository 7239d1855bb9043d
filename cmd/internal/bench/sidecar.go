package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	setmetadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/istio-auth/istio-auth/cmd/internal/envoybin"
	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/sdstest"
	"github.com/istio-auth/istio-auth/sds/secret"
	"github.com/istio-auth/istio-auth/sds/stream"
)

// A sidecar is the Envoy of package mesh with one worker, which gets secrets
// and policy from our own server, and answers 200 itself to whatever policy
// lets in.
type sidecar struct {
	authority *sdstest.Authority
	address   string
	plaintext bool
	envoy     *exec.Cmd
	socket    *sdstest.Socket
	filter    *filterSource
	worker    string // the worker thread's folder below /proc
	dir       string
}

// sidecarOptions are what a sidecar of the bench has otherwise.
type sidecarOptions struct {
	plaintext bool        // no TLS at its door: no peer has an identity
	token     *rbac.Token // that every request is taken to have shown
}

// startSidecar starts an Envoy for a workload of the trust domain.
func startSidecar(ctx context.Context, authority *sdstest.Authority, o sidecarOptions) (s *sidecar, err error) {
	s = &sidecar{authority: authority, plaintext: o.plaintext, filter: &filterSource{acked: make(chan string, 16)}}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "bench-envoy-"); err != nil {
		return s, err
	}
	id := spiffeid.RequireFromSegments(authority.TrustDomain, "ns", "shop", "sa", "web")
	svid, err := authority.SVID(id, sdstest.Leaf{})
	if err != nil {
		return s, err
	}
	secrets := &secret.Source{}
	if err := secrets.Set(secret.Material{SVID: svid, Bundle: authority.Bundle()}); err != nil {
		return s, err
	}
	server := &sds.Server{Sources: func(context.Context) ([]sds.Source, error) { return []sds.Source{secrets, s.filter}, nil }}
	if s.socket, err = sdstest.Serve(func(g *grpc.Server) { server.Register(g) }); err != nil {
		return s, err
	}
	if s.address, err = freeAddress(ctx); err != nil {
		return s, err
	}
	bootstrap, err := mesh.Bootstrap(mesh.Sidecar{
		Workload: id, AgentSocket: s.socket.Path, RuntimeDir: s.dir, CertificateLife: 24 * time.Hour,
		Inbound: mesh.Inbound{Listen: s.address, App: "127.0.0.1:9"}, AccessLog: "/dev/null",
	})
	if err != nil {
		return s, err
	}
	if err := answerItself(bootstrap, o); err != nil {
		return s, err
	}
	if err := s.run(ctx, bootstrap); err != nil {
		return s, err
	}
	return s, s.findWorker()
}

// filterSource offers the policy filter, and tells what Envoy acknowledges.
type filterSource struct {
	stream.Cell
	acked chan string
}

// TypeURL is that of extension configurations.
func (*filterSource) TypeURL() string { return distribute.FilterType }

// Observe is called by package sds.
func (f *filterSource) Observe(e sds.Event) {
	if e.Name == distribute.FilterName && (e.Kind == sds.Acked || e.Kind == sds.Nacked) {
		f.acked <- fmt.Sprint(e.Kind, " ", e.Version, " ", e.Detail)
	}
}

// enforce hands Envoy a filter, and returns how long it took to acknowledge it.
func (s *sidecar) enforce(version string, filter *anypb.Any) (time.Duration, error) {
	body, err := anypb.New(&corev3.TypedExtensionConfig{Name: distribute.FilterName, TypedConfig: filter})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	s.filter.Set(stream.Snapshot{Resources: map[string]*stream.Resource{distribute.FilterName: {Name: distribute.FilterName, Version: version, Body: body}}})
	select {
	case said := <-s.filter.acked:
		if want := fmt.Sprint(sds.Acked, " ", version, " "); said != want {
			return 0, fmt.Errorf("Envoy says %q of version %s", said, version)
		}
	case <-time.After(time.Minute):
		return 0, errors.New("Envoy has not acknowledged the filter in a minute")
	}
	return time.Since(start), nil
}

// answerItself takes the application's place. It believes x-forwarded-for.
func answerItself(b *bootstrapv3.Bootstrap, o sidecarOptions) error {
	for _, l := range b.StaticResources.Listeners {
		if l.Name != "inbound" {
			continue
		}
		chain := l.FilterChains[0]
		if o.plaintext {
			chain.TransportSocket, chain.TransportSocketConnectTimeout, l.ListenerFilters = nil, nil, nil
		}
		manager := &hcmv3.HttpConnectionManager{}
		if err := chain.Filters[0].GetTypedConfig().UnmarshalTo(manager); err != nil {
			return err
		}
		manager.AccessLog, manager.UseRemoteAddress, manager.InternalAddressConfig = nil, wrapperspb.Bool(false), nil
		for _, host := range manager.GetRouteConfig().VirtualHosts {
			for _, route := range host.Routes {
				route.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}}
			}
		}
		if err := showToken(manager, o.token); err != nil {
			return err
		}
		return chain.Filters[0].GetTypedConfig().MarshalFrom(manager)
	}
	return errors.New("the sidecar has no door")
}

// showToken puts a token's claims where the filter that verifies tokens leaves
// them, since the verifying is not what is measured.
func showToken(manager *hcmv3.HttpConnectionManager, token *rbac.Token) error {
	if token == nil {
		return nil
	}
	payload, err := structpb.NewStruct(token.Claims)
	if err != nil {
		return err
	}
	config, err := anypb.New(&setmetadatav3.Config{Metadata: []*setmetadatav3.Metadata{{
		MetadataNamespace: "envoy.filters.http.jwt_authn",
		Value:             &structpb.Struct{Fields: map[string]*structpb.Value{"payload": structpb.NewStructValue(payload)}},
	}}})
	if err != nil {
		return err
	}
	for i, f := range manager.HttpFilters {
		if f.Name == distribute.TokensName {
			manager.HttpFilters[i] = &hcmv3.HttpFilter{Name: f.Name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
			return nil
		}
	}
	return errors.New("the sidecar has no filter for tokens")
}

func (s *sidecar) run(ctx context.Context, b *bootstrapv3.Bootstrap) error {
	binary, err := envoybin.Ensure(ctx, ".tools")
	if err != nil {
		return err
	}
	config, err := protojson.Marshal(b)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, "bootstrap.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	arguments := append([]string{"-c", path, "--concurrency", "1", "-l", "warning"}, mesh.Arguments()...)
	s.envoy = exec.CommandContext(ctx, binary, arguments...)
	s.envoy.Stdout, s.envoy.Stderr = log, log
	s.envoy.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the parent-death signal is tied to the thread
	defer runtime.UnlockOSThread()
	return s.envoy.Start()
}

func (s *sidecar) stop() {
	if s.envoy != nil && s.envoy.Process != nil {
		s.envoy.Process.Signal(syscall.SIGTERM)
		s.envoy.Wait()
	}
	if s.socket != nil {
		s.socket.Close()
	}
	os.RemoveAll(s.dir)
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// findWorker waits for the one thread that serves requests.
func (s *sidecar) findWorker() error {
	for range 600 {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", s.envoy.Process.Pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if name, err := os.ReadFile(task); err == nil && strings.HasPrefix(string(name), "wrk:worker_0") {
				s.worker = filepath.Dir(task)
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return fmt.Errorf("no worker in half a minute: %.2000s", log)
}

// used is the processor time that the worker has had.
func (s *sidecar) used() (time.Duration, error) {
	return onProcessor(filepath.Join(s.worker, "schedstat"))
}

// usedByAll is the processor time that all threads have had.
func (s *sidecar) usedByAll() (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.envoy.Process.Pid))
	if err != nil {
		return 0, err
	}
	var all time.Duration
	for _, task := range tasks {
		used, err := onProcessor(task)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		all += used
	}
	return all, nil
}

// onProcessor reads a thread's schedstat.
func onProcessor(schedstat string) (time.Duration, error) {
	text, err := os.ReadFile(schedstat)
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
	return time.Duration(ns), err
}

// memory is the resident memory of the process in MiB.
func (s *sidecar) memory() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.envoy.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			return float64(kib) / 1024, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// A caller is one keep-alive connection of HTTP/1.1.
type caller struct {
	conn net.Conn
	in   *bufio.Reader
}

// dial connects, as a workload where the door has TLS. Envoy may not be
// listening yet.
func (s *sidecar) dial(id spiffeid.ID) (*caller, error) {
	var config *tls.Config
	if !s.plaintext {
		svid, err := s.authority.SVID(id, sdstest.Leaf{})
		if err != nil {
			return nil, err
		}
		config = mtls.Client(svid, s.authority.Bundle(), func(spiffeid.ID) error { return nil })
	}
	var last error
	for range 200 {
		conn, err := net.DialTimeout("tcp", s.address, time.Second)
		if err == nil && config != nil {
			secure := tls.Client(conn, config)
			if err = secure.Handshake(); err == nil {
				return &caller{secure, bufio.NewReader(secure)}, nil
			}
			conn.Close()
		} else if err == nil {
			return &caller{conn, bufio.NewReader(conn)}, nil
		}
		last = err
		time.Sleep(50 * time.Millisecond)
	}
	return nil, last
}

// call sends a request and returns the status.
func (c *caller) call(request string) (int, error) {
	if _, err := c.conn.Write([]byte(request)); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
