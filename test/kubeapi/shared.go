package kubeapi

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/istio-auth/istio-auth/test/testreq"
)

// one is the server of this test process. There is one because a process has
// one TestMain; tests keep apart by [Server.Namespace].
var one struct {
	sync.Mutex // guards what follows
	managed    bool
	config     Config
	server     *Server
	err        error
}

// Main runs a package's tests, ends the server that [Shared] may have started,
// and exits. It is the body of TestMain:
//
//	func TestMain(m *testing.M) { kubeapi.Main(m, kubeapi.Config{}) }
func Main(m *testing.M, c Config) {
	one.Lock()
	one.managed, one.config = true, c
	one.Unlock()
	code := m.Run()
	one.Lock()
	if one.server != nil {
		one.server.stop()
	}
	one.Unlock()
	os.Exit(code)
}

// Shared is the server of the whole test process, started at the first call.
// The package's TestMain must call [Main].
func Shared(t testing.TB) *Server {
	t.Helper()
	bin := filepath.Dir(testreq.Tool(t, "kube/kubeall", how))
	one.Lock()
	defer one.Unlock()
	if !one.managed {
		t.Fatal("kubeapi.Shared: the package has no TestMain that calls kubeapi.Main")
	}
	if one.server == nil && one.err == nil {
		// Not the test's context: other tests use the server after it.
		one.server, one.err = start(context.Background(), bin, one.config)
	}
	if one.err != nil {
		t.Fatal(one.err)
	}
	return one.server
}
