package caclient

import (
	"context"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/ca/client"
)

var td = spiffeid.RequireTrustDomainFromString("td.test")

func save(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestNewWaitsForTrust: there is no first use. A missing file, an empty one and
// one that holds no certificate are all waited for, however long it takes.
func TestNewWaitsForTrust(t *testing.T) {
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: catest.New(t, td).Root.Raw})
	path := filepath.Join(t.TempDir(), "bundle.pem")
	synctest.Test(t, func(t *testing.T) {
		done := make(chan error, 1)
		go func() {
			made, err := New(t.Context(), Config{Address: "ca:1", Bundle: path, Token: "/t"}, Options{TrustDomain: td, Log: slog.New(slog.DiscardHandler)})
			if err == nil && made == nil {
				err = errors.New("neither a client nor an error")
			}
			done <- err
		}()
		for _, text := range []string{"(missing)", "", "\n", "not a certificate", string(root[:len(root)/2])} {
			if text != "(missing)" {
				save(t, path, text)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("with %.20q as trust New returned (%v)", text, err)
			default:
			}
		}
		save(t, path, string(root))
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestNewEndsWithItsContext, and says what it waited for.
func TestNewEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err := New(ctx, Config{Address: "ca:1", Bundle: "/nonexistent/bundle.pem", Token: "/t"}, Options{TrustDomain: td, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "/nonexistent/bundle.pem") {
		t.Errorf("got %v, want the context's error and the file", err)
	}
}

func TestFirstTrustSaysWhatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bundle.pem")
	save(t, path, "")
	if _, err := firstTrust(path, td)(); err == nil || !strings.Contains(err.Error(), "is empty: the CA has not filled it") {
		t.Errorf("an empty file: %v", err)
	}
	root := catest.New(t, td).Root
	save(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})))
	b, err := firstTrust(path, td)()
	if err != nil || b.TrustDomain() != td || !b.HasX509Authority(root) {
		t.Errorf("a good file: %v, %v", b, err)
	}
}

// TestTokenIsReadAnew at each attempt: the kubelet replaces it while we run.
func TestTokenIsReadAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for _, join := range []bool{false, true} {
		of := client.KubernetesToken
		if join {
			of = client.JoinToken
		}
		read := tokenFile(path, join)
		os.Remove(path)
		if _, err := read(t.Context()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a missing file: %v", err)
		}
		for _, text := range []string{"", " \n"} {
			save(t, path, text)
			if _, err := read(t.Context()); err == nil || !strings.Contains(err.Error(), "is empty") {
				t.Errorf("%q: %v", text, err)
			}
		}
		for text, want := range map[string]string{"one": "one", "two\n": "two", "  three\r\n": "three"} {
			save(t, path, text)
			got, err := read(t.Context())
			if err != nil || !reflect.DeepEqual(got, of(attest.NewToken(want))) {
				t.Errorf("%q (join %v): got another token than %q (%v)", text, join, want, err)
			}
		}
	}
	if reflect.DeepEqual(client.KubernetesToken(attest.NewToken("x")), client.JoinToken(attest.NewToken("x"))) || reflect.DeepEqual(client.JoinToken(attest.NewToken("x")), client.JoinToken(attest.NewToken("y"))) {
		t.Error("different evidence compares equal: this test sees nothing")
	}
}
