package stream_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/sds/stream"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata/*.script")

// types are the short names of the scripts.
var types = map[string]string{
	"secret":  "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
	"filter":  "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
	"cluster": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
}

func shortType(url string) string {
	for short, long := range types {
		if long == url {
			return short
		}
	}
	return url
}

// TestScripts replays testdata/*.script. A line is a comment (#), an operation,
// or an answer of the session to the operation above it:
//
//	sotw | delta                          a new stream
//	set TYPE [complete] NAME=VERSION...   a snapshot
//	> TYPE [NAME...] [field=value...]     a request; delta: +NAME -NAME; fields:
//	                                      nonce, version, nack, have=NAME:VERSION
//	wait DURATION
//	< TYPE nonce=N [version=V] [NAME=VERSION...] [-NAME...]   a response
//	= acked|refused TYPE NAME@VERSION [DETAIL]                an event
//	! REASON                                                  the stream's end
//	~ DURATION                            the back-off that is under way
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.script")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".script"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(data))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(data), got); diff != "" {
				t.Errorf("%s: answers differ (-want +got), rewrite with -update:\n%s", file, diff)
			}
		})
	}
}

// player runs one script.
type player struct {
	t         *testing.T
	now       time.Time
	session   *stream.Session
	delta     bool
	snapshots map[string]stream.Snapshot
	out       strings.Builder
}

func replay(t *testing.T, script string) string {
	p := &player{t: t, now: time.Unix(1_000_000, 0), snapshots: map[string]stream.Snapshot{}}
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "<") || strings.HasPrefix(line, "=") || strings.HasPrefix(line, "!") || strings.HasPrefix(line, "~") {
			continue
		}
		p.out.WriteString(line)
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := p.do(line); err != nil {
			var refusal *stream.Refusal
			if !errors.As(err, &refusal) {
				t.Fatalf("%s: %v", line, err)
			}
			fmt.Fprintf(&p.out, "! %s\n", refusal.Reason)
			continue
		}
		p.answers()
	}
	return p.out.String()
}

func (p *player) do(line string) error {
	op, rest, _ := strings.Cut(line, " ")
	switch op {
	case "sotw":
		p.session, p.delta = stream.NewSotW(), false
	case "delta":
		p.session, p.delta = stream.NewDelta(), true
	case "wait":
		d, err := time.ParseDuration(rest)
		if err != nil {
			return err
		}
		p.now = p.now.Add(d)
	case "set":
		words := strings.Fields(rest)
		url := types[words[0]]
		p.snapshots[url] = snapshotOf(words[1:])
		p.session.Set(url, p.snapshots[url])
	case ">":
		return p.request(rest)
	default:
		return fmt.Errorf("unknown operation %q", op)
	}
	return nil
}

func snapshotOf(words []string) stream.Snapshot {
	s := stream.Snapshot{Resources: map[string]*stream.Resource{}}
	for _, word := range words {
		if word == "complete" {
			s.Complete = true
			continue
		}
		name, version, _ := strings.Cut(word, "=")
		s.Resources[name] = &stream.Resource{Name: name, Version: version, Body: &anypb.Any{TypeUrl: "t", Value: []byte(name + "=" + version)}}
	}
	return s
}

func (p *player) request(line string) error {
	words, err := fields(line)
	if err != nil {
		return err
	}
	sotw := &discoveryv3.DiscoveryRequest{TypeUrl: types[words[0]]}
	delta := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: types[words[0]], InitialResourceVersions: map[string]string{}}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case key == "nonce":
			sotw.ResponseNonce, delta.ResponseNonce = value, value
		case key == "version":
			sotw.VersionInfo = value
		case key == "nack":
			status := &statuspb.Status{Code: 13, Message: value}
			sotw.ErrorDetail, delta.ErrorDetail = status, status
		case key == "have":
			name, version, _ := strings.Cut(value, ":")
			delta.InitialResourceVersions[name] = version
		case strings.HasPrefix(word, "+"):
			delta.ResourceNamesSubscribe = append(delta.ResourceNamesSubscribe, word[1:])
		case strings.HasPrefix(word, "-"):
			delta.ResourceNamesUnsubscribe = append(delta.ResourceNamesUnsubscribe, word[1:])
		default:
			sotw.ResourceNames = append(sotw.ResourceNames, word)
		}
	}
	known := len(p.session.Types())
	if p.delta {
		err = p.session.Delta(p.now, delta)
	} else {
		err = p.session.SotW(p.now, sotw)
	}
	for _, url := range p.session.Types()[known:] {
		p.session.Set(url, p.snapshots[url])
	}
	return err
}

// fields splits a line into words; a quoted value is one word.
func fields(line string) ([]string, error) {
	var words []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		word := line
		if at := strings.IndexAny(line, " \""); at >= 0 && line[at] == '"' {
			quoted, err := strconv.QuotedPrefix(line[at:])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			text, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, err
			}
			word, line = line[:at]+text, line[at+len(quoted):]
		} else {
			word, line, _ = strings.Cut(line, " ")
		}
		words = append(words, word)
	}
	return words, nil
}

func (p *player) answers() {
	for _, e := range p.session.Events() {
		verb := "acked"
		if e.Refused {
			verb = "refused"
		}
		fmt.Fprintln(&p.out, strings.TrimSpace(fmt.Sprintf("= %s %s %s@%s %s", verb, shortType(e.TypeURL), e.Name, e.Version, e.Detail)))
	}
	for range 1000 {
		response, ok := p.session.Next(p.now)
		if !ok {
			if wake := p.session.Wake(); !wake.IsZero() {
				fmt.Fprintf(&p.out, "~ %v\n", wake.Sub(p.now))
			}
			return
		}
		fmt.Fprintln(&p.out, "< "+describe(p.t, response))
	}
	p.t.Fatal("the session does not stop answering")
}

func describe(t *testing.T, r stream.Response) string {
	t.Helper()
	if (r.SotW == nil) == (r.Delta == nil) {
		t.Fatal("a response is of one protocol")
	}
	if r.SotW != nil {
		line := fmt.Sprintf("%s nonce=%s", shortType(r.SotW.TypeUrl), r.SotW.Nonce)
		if r.SotW.VersionInfo != "" {
			line += " version=" + r.SotW.VersionInfo
		}
		for _, body := range r.SotW.Resources {
			line += " " + string(body.Value)
		}
		return line
	}
	line := fmt.Sprintf("%s nonce=%s", shortType(r.Delta.TypeUrl), r.Delta.Nonce)
	for _, resource := range r.Delta.Resources {
		if got, want := string(resource.Resource.Value), resource.Name+"="+resource.Version; got != want {
			t.Errorf("resource %s wraps %s", want, got)
		}
		line += " " + resource.Name + "=" + resource.Version
	}
	for _, name := range slices.Sorted(slices.Values(r.Delta.RemovedResources)) {
		line += " -" + name
	}
	return line
}
