package testreq_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/test/testreq"
)

// recorder is a testing.TB that keeps how it was ended.
type recorder struct {
	testing.TB
	ended, text string
}

func (r *recorder) Helper() {}

func (r *recorder) Skip(args ...any) { r.end("skip", args[0].(string)) }

func (r *recorder) Fatal(args ...any) { r.end("fail", args[0].(string)) }

func (r *recorder) end(how, text string) {
	r.ended, r.text = how, text
	runtime.Goexit()
}

// record runs f until it ends, by itself or through the recorder.
func record(t *testing.T, f func(testing.TB)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func TestMissing(t *testing.T) {
	for ci, want := range map[string]string{"": "skip", "false": "skip", "true": "fail"} {
		t.Run("CI="+ci, func(t *testing.T) {
			t.Setenv("CI", ci)
			r := record(t, func(tb testing.TB) { testreq.Missing(tb, "envoy: run make envoy") })
			if r.ended != want || !strings.HasSuffix(r.text, "envoy: run make envoy") {
				t.Errorf("got %s with %q, want %s with the reason", r.ended, r.text, want)
			}
		})
	}
}

func TestTool(t *testing.T) {
	t.Setenv("CI", "true")
	r := record(t, func(tb testing.TB) { testreq.Tool(tb, "no/such/tool", "run make it") })
	if got, want := r.text, "missing in CI: no/such/tool: run make it"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTree(t *testing.T) {
	root := testreq.Tree(t)
	if _, err := os.Stat(filepath.Join(root, "test", "testreq", "testreq.go")); err != nil {
		t.Error(err)
	}
	t.Chdir(filepath.Join(root, "test", "kube")) // a module of its own, below the root
	if got := testreq.Tree(t); got != root {
		t.Errorf("from test/kube: got %s, want %s", got, root)
	}
}
