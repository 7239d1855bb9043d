package files_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/files"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

func policy(name, path string) string {
	return fmt.Sprintf(`apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %s, namespace: shop}
spec: {rules: [{to: [{operation: {paths: [%q]}}]}]}
`, name, path)
}

// A dir is a watched directory. Time in it passes at will.
type dir struct {
	t    *testing.T
	path string

	mu    sync.Mutex // guards what the last emit said
	emits int
	keys  string // of the last emit: "name path", joined
	err   error
}

// watch runs test in a bubble, with a watched directory that holds initial.
func watch(t *testing.T, initial map[string]string, test func(*dir)) {
	t.Helper()
	d := &dir{t: t, path: t.TempDir()}
	for name, text := range initial {
		d.write(name, text)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- files.Watch(ctx, d.path, func(o access.Objects, err error) {
				keys := o.Keys()
				for i, p := range o.Policies {
					keys[i] = p.Name + " " + p.Rules[0].To[0][0].In[0].String()
				}
				d.mu.Lock()
				defer d.mu.Unlock()
				d.emits, d.keys, d.err = d.emits+1, strings.Join(keys, ", "), err
			})
		}()
		synctest.Wait()
		test(d)
		stop()
		if err := <-done; err != nil {
			t.Errorf("Watch returned %v", err)
		}
	})
}

func (d *dir) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.path, name), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dir) remove(name string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.path, name)); err != nil {
		d.t.Fatal(err)
	}
}

// want looks a second later.
func (d *dir) want(emits int, keys, reason string) {
	d.t.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	got := ""
	var refused *parse.Error
	if errors.As(d.err, &refused) {
		got = refused.Reason
	} else if d.err != nil {
		got = "other"
	}
	if d.emits != emits || d.keys != keys || got != reason {
		d.t.Errorf("emitted %d times, last %q, %q (%v); want %d, %q, %q", d.emits, d.keys, got, d.err, emits, keys, reason)
	}
}

func TestWatch(t *testing.T) {
	watch(t, map[string]string{"b.yaml": policy("b", "/b"), "a.yml": policy("a", "/a"), ".a.yaml.swp": "{", "notes.txt": "x"}, func(d *dir) {
		d.want(1, "a /a, b /b", "")
		d.write("b.yaml", policy("b", "/c")) // of the same length
		d.want(2, "a /a, b /c", "")
		d.write("c.json", `{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "c", "namespace": "shop"}, "spec": {"rules": [{"to": [{"operation": {"paths": ["/c"]}}]}]}}`)
		d.want(3, "a /a, b /c, c /c", "")
		d.remove("a.yml")
		d.want(4, "b /c, c /c", "")
	})
}

// TestARacyWrite: a file of the same length and the same time, which coarse
// clocks give, is read again.
func TestARacyWrite(t *testing.T) {
	watch(t, map[string]string{"a.yaml": policy("a", "/a")}, func(d *dir) {
		d.want(1, "a /a", "")
		path := filepath.Join(d.path, "a.yaml")
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		d.write("a.yaml", policy("a", "/b"))
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
		d.want(2, "a /b", "")
	})
}

func TestABadFileKeepsWhatItSaid(t *testing.T) {
	watch(t, map[string]string{"a.yaml": policy("a", "/a"), "b.yaml": policy("b", "/b")}, func(d *dir) {
		d.want(1, "a /a, b /b", "")
		d.write("a.yaml", strings.Replace(policy("a", "/c"), "paths", "path", 1))
		d.write("b.yaml", policy("b", "/c"))
		d.want(2, "a /a, b /c", "unknown-field")
		d.mu.Lock()
		err := d.err
		d.mu.Unlock()
		if want := filepath.Join(d.path, "a.yaml") + ":4:"; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: want it to begin with %s", err, want)
		}
		d.write("b.yaml", policy("b", "/d")) // a's last good content lasts
		d.want(3, "a /a, b /d", "unknown-field")
		d.write("a.yaml", "") // truncated, and about to be written
		d.want(4, "a /a, b /d", "empty")
		d.write("a.yaml", policy("a", "/e"))
		d.want(5, "a /e, b /d", "")
	})
}

// TestABadFileAtTheBeginning: what a file said before a restart is not known,
// and no set without it is handed on. It may have held the only ALLOW.
func TestABadFileAtTheBeginning(t *testing.T) {
	for name, text := range map[string]string{"a typo": strings.Replace(policy("a", "/a"), "paths", "path", 1), "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			d := &dir{t: t, path: t.TempDir()}
			d.write("a.yaml", text)
			d.write("b.yaml", policy("b", "/b"))
			err := files.Watch(t.Context(), d.path, func(access.Objects, error) { t.Error("emitted") })
			if !errors.Is(err, parse.ErrRefused) {
				t.Errorf("got %v, want the refusal", err)
			}
		})
	}
}

// TestANewBadFileChangesNothing: it may be an old one with another name.
func TestANewBadFileChangesNothing(t *testing.T) {
	watch(t, map[string]string{"a.yaml": policy("a", "/a"), "b.yaml": policy("b", "/b")}, func(d *dir) {
		d.want(1, "a /a, b /b", "")
		d.write("new.yaml", "kind: Secret")
		d.remove("a.yaml")
		d.want(2, "a /a, b /b", "missing-field")
		d.write("b.yaml", policy("b", "/c"))
		d.want(3, "a /a, b /b", "missing-field")
		d.write("new.yaml", policy("new", "/n"))
		d.want(4, "b /c, new /n", "")
		if err := os.Symlink("nowhere", filepath.Join(d.path, "c.yaml")); err != nil {
			t.Fatal(err)
		}
		d.remove("b.yaml")
		d.want(5, "b /c, new /n", "other")
		d.remove("c.yaml")
		d.want(6, "new /n", "")
	})
}

func TestTwoFilesWithOnePolicy(t *testing.T) {
	watch(t, map[string]string{"a.yaml": policy("a", "/a"), "b.yaml": policy("a", "/b")}, func(d *dir) {
		d.want(1, "a /a", "duplicate-policy")
		d.remove("a.yaml")
		d.want(2, "a /b", "")
	})
}

func TestNothingHalfWritten(t *testing.T) {
	watch(t, map[string]string{"a.yaml": policy("a", "/a")}, func(d *dir) {
		for i := range 20 { // changes faster than two looks
			d.write("a.yaml", policy("a", fmt.Sprintf("/%d", i)))
			time.Sleep(files.Interval * 3 / 4)
		}
		d.mu.Lock()
		emits := d.emits
		d.mu.Unlock()
		if emits != 1 {
			t.Errorf("emitted %d times while the file was being written", emits)
		}
		d.want(2, "a /19", "")
	})
}

func TestTheDirectoryGoes(t *testing.T) {
	watch(t, map[string]string{"a.yaml": policy("a", "/a")}, func(d *dir) {
		d.want(1, "a /a", "")
		if err := os.Rename(d.path, d.path+"x"); err != nil {
			t.Fatal(err)
		}
		d.want(2, "a /a", "other")
		if err := os.Rename(d.path+"x", d.path); err != nil {
			t.Fatal(err)
		}
		d.want(3, "a /a", "")
	})
}

func TestNoDirectory(t *testing.T) {
	err := files.Watch(t.Context(), filepath.Join(t.TempDir(), "none"), func(access.Objects, error) { t.Error("emitted") })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that it does not exist", err)
	}
}

// TestAllKinds: what one file has of a kind is apart from what another has of
// another, and a bad file keeps all that it had.
func TestAllKinds(t *testing.T) {
	object := func(version, kind, name, spec string) string {
		return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: shop}\nspec: %s\n---\n", version, kind, name, spec)
	}
	const istio, ours = "security.istio.io/v1", "istio-auth.io/v1alpha1"
	tokens := object(istio, "RequestAuthentication", "x", "{jwtRules: [{issuer: i, jwksUri: https://idp.test/keys}]}")
	strict := object(istio, "PeerAuthentication", "x", "{mtls: {mode: STRICT}}")
	role := object(ours, "AccessRole", "x", "{permissions: [{operations: [{methods: [GET]}]}]}")
	grant := object(ours, "AccessGrant", "x", "{roleRef: {name: x}, subjects: [{namespaces: [a]}]}")
	rule := object(ours, "AccessRule", "x", `{action: DENY, operations: [{paths: [/r]}]}`)
	const all = "accessrule.x /r, x /a, RequestAuthentication shop/x, PeerAuthentication shop/x, AccessRole shop/x, AccessGrant shop/x"
	watch(t, map[string]string{"a.yaml": policy("x", "/a"), "b.yaml": tokens + strict, "c.yaml": role + grant + rule}, func(d *dir) {
		d.want(1, all, "")
		d.write("b.yaml", tokens+strings.Replace(strict, "STRICT", "strict", 1))
		d.want(2, all, "unknown-value")
		d.write("c.yaml", role+strings.Replace(grant, "subjects", "subject", 1)+rule)
		d.want(3, all, "unknown-value") // the first of two
		d.write("b.yaml", strict)
		d.want(4, strings.Replace(all, "RequestAuthentication shop/x, ", "", 1), "unknown-field")
		d.write("c.yaml", grant)
		d.want(5, "x /a, PeerAuthentication shop/x, AccessGrant shop/x", "")
		d.write("d.yaml", grant)
		d.want(6, "x /a, PeerAuthentication shop/x, AccessGrant shop/x", "duplicate-policy")
	})
}
