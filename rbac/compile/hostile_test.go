package compile_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// A hostileRow is a request that means to be taken for another, sent to a set,
// and what must come of it.
type hostileRow struct {
	set  int
	call rbactest.Call

	code int
	// reason is the line that decided (a rule, or a reason of rbac/eval), or
	// Envoy's details where no line was asked.
	reason string
	// open says what is wrong with a row that is not held yet. When it is, the
	// test fails until the word is taken out.
	open string
}

func (r hostileRow) String() string {
	version := "HTTP/1"
	if r.call.HTTP2 {
		version = "HTTP/2"
	}
	return fmt.Sprintf("set %d, %s %.200q %.200q, authority %q, headers %.300q", r.set, version, r.call.Method, r.call.Target, r.call.Authority, r.call.Headers)
}

// ruleLine is the line of the only rule of a set of onePolicy.
const ruleLine = rbactest.Namespace + "/p/0"

// onePolicy is a set of one policy with one rule, which asks for one attribute.
func onePolicy(t testing.TB, action rbac.Action, a rbac.Attribute, in, notIn []string) rbac.Set {
	t.Helper()
	parse := func(list []string) (patterns []rbac.Pattern) {
		for _, s := range list {
			p, err := rbac.ParseValue(a, s, rbactest.Namespace)
			if err != nil {
				t.Fatalf("%s: %v", s, err)
			}
			patterns = append(patterns, p)
		}
		return patterns
	}
	test := rbac.Test{Attribute: a, In: parse(in), NotIn: parse(notIn)}
	return rbac.Select([]rbac.Policy{{
		Namespace: rbactest.Namespace, Name: "p", Action: action,
		Rules: []rbac.Rule{{To: []rbac.Clause{{test}}}},
	}}, rbactest.Target())
}

// verdict is the code and the reason that an answer gives.
func (a answer) verdict() (code int, reason string) {
	if line, ok := strings.CutPrefix(a.details, "rbac_access_denied_matched_policy["); ok {
		return a.code, strings.TrimSuffix(line, "]")
	}
	if a.details == "direct_response" {
		return a.code, a.line
	}
	return a.code, a.details
}

// patience is how long a connection may take for all of its rows.
const patience = 30 * time.Second

// decideHostile sends every row through a real Envoy, holds the answer to the
// row and to rbac/eval, and hands it to also, under a lock.
func decideHostile(t *testing.T, sets []rbac.Set, rows []hostileRow, also func(hostileRow, answer)) {
	t.Helper()
	w := start(t, newAuthority(t), sets)
	peer := rbactest.Peers(1)[0]
	const workers = 8
	var mu sync.Mutex // guards failed, and also
	failed := 0
	var wait sync.WaitGroup
	for i := range workers {
		c1 := w.client(t, peer.String())
		c2 := &client2{dial: func() (net.Conn, error) {
			conn, err := c1.dial()
			if err == nil {
				err = conn.SetDeadline(time.Now().Add(patience)) // what hangs is to be told
			}
			return conn, err
		}}
		wait.Go(func() {
			defer c2.close()
			for j := i; j < len(rows); j += workers {
				row := rows[j]
				row.call.Peer = peer
				var c sender = c1
				if row.call.HTTP2 {
					c = c2
				}
				got, err := c.do(row.set, row.call)
				problem := row.judge(sets[row.set], got, err)
				mu.Lock()
				if problem == "" && also != nil && err == nil {
					also(row, got)
				}
				if (problem != "") != (row.open != "") {
					if failed++; failed <= 40 {
						t.Errorf("%v: %s (open: %q)", row, problem, row.open)
					}
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if failed > 40 {
		t.Errorf("and %d more rows", failed-40)
	}
}

// evalSays is for messages.
func (r hostileRow) evalSays(set rbac.Set) string {
	req, err := r.call.Request()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%+v", eval.Decide(set, req))
}

// judge says what is wrong with an answer; nothing is "".
func (r hostileRow) judge(set rbac.Set, got answer, err error) string {
	if err != nil {
		return err.Error()
	}
	if code, reason := got.verdict(); code != r.code || reason != r.reason {
		return fmt.Sprintf("Envoy says %d %s, want %d %s; the path is %q; eval says %s", code, reason, r.code, r.reason, got.path, r.evalSays(set))
	}
	if got.details != "direct_response" && !strings.HasPrefix(got.details, "rbac_access_denied") {
		return "" // Envoy refused it before any policy was asked
	}
	req, err := r.call.Request()
	if err != nil && r.reason == "none" {
		return "" // neither has a path, and the filter refuses without asking a line
	}
	if err != nil {
		if !r.call.HTTP2 || got.path == "" {
			return fmt.Sprintf("rbac says %v, Envoy %+v", err, got)
		}
		// Over HTTP/2 Envoy encodes bytes that it refuses over HTTP/1.
		encoded := r.call
		encoded.Target = "/"
		if req, err = encoded.Request(); err != nil {
			return err.Error()
		}
		req.Path = got.path
	}
	if got.path != req.Path {
		return fmt.Sprintf("the path is %q, rbac has %q", got.path, req.Path)
	}
	v := eval.Decide(set, req)
	if line := v.Rule; v.Allowed != (got.code == 200) || line != "" && line != r.reason || line == "" && string(v.Reason) != r.reason {
		return fmt.Sprintf("eval says %+v, Envoy %d %s", v, got.code, r.reason)
	}
	return ""
}
