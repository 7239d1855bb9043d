package compile_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// A hostileHeader is a request's lines, and what x-role must be held for.
type hostileHeader struct {
	lines []string // "name: value"
	// is is the value of x-role; none and several are no value.
	is            string
	none, several bool
	bad1, bad2    string // Envoy's details where it refuses over HTTP/1, and HTTP/2; without bad2 there is no row for HTTP/2
}

var headerKinds = []struct {
	pattern string
	holds   func(value string) bool
}{
	{"user", func(v string) bool { return v == "user" }},
	{"us*", func(v string) bool { return strings.HasPrefix(v, "us") }},
	{"*er", func(v string) bool { return strings.HasSuffix(v, "er") }},
	{"*", func(v string) bool { return v != "" }},
}

// hostileHeaders are the forms. A line is a form.
func hostileHeaders() []hostileHeader {
	long := strings.Repeat("x", 8000)
	list := []hostileHeader{
		{none: true},
		{lines: []string{"x-role: user"}, is: "user"},
		{lines: []string{"x-role: users"}, is: "users"},
		{lines: []string{"x-role: superuser"}, is: "superuser"},
		{lines: []string{"x-role: User"}, is: "User"},
		{lines: []string{"x-role: USER"}, is: "USER"},
		{lines: []string{"x-role: admin"}, is: "admin"},
		{lines: []string{"x-role:"}, is: ""},
		{lines: []string{"x-role: user", "x-role: user"}, several: true},
		{lines: []string{"x-role: user", "x-role: admin"}, several: true},
		{lines: []string{"x-role: admin", "x-role: user"}, several: true},
		{lines: []string{"x-role: user", "x-role:"}, several: true},
		{lines: []string{"x-role:", "x-role: user"}, several: true},
		{lines: []string{"x-role:", "x-role:"}, several: true},
		{lines: []string{"x-role: user", "accept: a", "x-role: admin"}, several: true},
		{lines: []string{"x-role: user", "x-role: user", "x-role: admin"}, several: true},
		{lines: []string{"x-role: user,admin"}, several: true},
		{lines: []string{"x-role: admin,user"}, several: true},
		{lines: []string{"x-role: user,"}, several: true},
		{lines: []string{"x-role: ,user"}, several: true},
		{lines: []string{"x-role: user , user"}, several: true},
		{lines: []string{"x-role: ,"}, several: true},
		{lines: []string{"x-role: \"user,x\""}, several: true},
		{lines: []string{"x-role: user;q=1"}, is: "user;q=1"},
		{lines: []string{"x-role: user admin"}, is: "user admin"},
		{lines: []string{"x-role: \"user\""}, is: "\"user\""},
		{lines: []string{"x-role: us\ter"}, is: "us\ter"},
		{lines: []string{"x-role: us%65r"}, is: "us%65r"},
		{lines: []string{"x-role: us\xc3\xa9er"}, is: "us\xc3\xa9er"},
		{lines: []string{"x-role: user\xff"}, is: "user\xff"},
		{lines: []string{"x-role: us" + long + "er"}, is: "us" + long + "er"},
		{lines: []string{"x-role: user" + long}, is: "user" + long},
		{lines: []string{"x-role2: user"}, none: true},
		{lines: []string{"xx-role: user"}, none: true},
		{lines: []string{"x-rol: user"}, none: true},
		{lines: []string{"x--role: user"}, none: true},
		{lines: []string{"role: user"}, none: true},
		{lines: []string{"x.role: user"}, none: true},
		{lines: []string{"cookie: x-role=user"}, none: true},
		{lines: []string{"x-forwarded-x-role: user"}, none: true},
		{lines: []string{"x_role: user"}, bad1: "http1.unexpected_underscore", bad2: "reset"},
		{lines: []string{"x-role: user", "x_role: admin"}, bad1: "http1.unexpected_underscore", bad2: "reset"},
		{lines: []string{"x_role: admin", "x-role: user"}, bad1: "http1.unexpected_underscore", bad2: "reset"},
		{lines: []string{"x-role: user", "x-role_: admin"}, bad1: "http1.unexpected_underscore", bad2: "reset"},
	}
	// What is no text of a header's value, and where.
	for b := range 0x20 {
		if b == '\t' || b == '\n' || b == '\r' {
			continue
		}
		for _, form := range []string{"x-role: us%cer", "x-role: user%c", "x-role: %cuser"} {
			list = append(list, hostileHeader{lines: []string{fmt.Sprintf(form, b)}, bad1: "http1.invalid_characters"})
		}
	}
	return list
}

// TestHostileHeaders: HD-01. Whatever a header looks like, a DENY errs on its
// side, and an ALLOW on the other.
func TestHostileHeaders(t *testing.T) {
	role, err := rbac.HeaderAttr("x-role")
	if err != nil {
		t.Fatal(err)
	}
	var sets []rbac.Set
	var rows []hostileRow
	for _, kind := range headerKinds {
		for _, action := range []rbac.Action{rbac.Allow, rbac.Deny} {
			for _, negated := range []bool{false, true} {
				in, notIn := []string{kind.pattern}, []string(nil)
				if negated {
					in, notIn = notIn, in
				}
				sets = append(sets, onePolicy(t, action, role, in, notIn))
				for _, h := range hostileHeaders() {
					for _, http2 := range []bool{false, true} {
						if http2 && h.bad1 != "" && h.bad2 == "" {
							continue // Envoy lets such a stream wait for 10 s, and ends it
						}
						rows = append(rows, h.row(len(sets)-1, action, kind.holds, negated, http2))
					}
				}
			}
		}
	}
	if got, want := len(rows), 2_800; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	decideHostile(t, sets, rows, nil)
}

func (h hostileHeader) row(set int, action rbac.Action, holds func(string) bool, negated, http2 bool) hostileRow {
	row := hostileRow{set: set, call: rbactest.Call{HTTP2: http2, Method: http.MethodGet, Target: "/", Authority: "shop.test"}}
	for _, line := range h.lines {
		name, value, _ := strings.Cut(line, ":")
		row.call.Headers = append(row.call.Headers, rbactest.Header{Name: name, Value: strings.TrimPrefix(value, " ")})
	}
	if h.bad1 != "" {
		row.code, row.reason = http.StatusBadRequest, h.bad1
		if http2 {
			row.code, row.reason = 0, h.bad2
		}
		return row
	}
	matches, unsure := holds(h.is) != negated, h.several || h.none && negated
	if h.none {
		matches = false
	} else if !h.several && h.is == "" && holds("x") && holds("y") {
		unsure = true // "*": an empty line is there for some servers, and for others not
	}
	switch {
	case action == rbac.Allow && matches && !unsure:
		row.code, row.reason = http.StatusOK, ruleLine
	case action == rbac.Allow:
		row.code, row.reason = http.StatusForbidden, "no-allow-match"
	case matches || unsure:
		row.code, row.reason = http.StatusForbidden, ruleLine
	default:
		row.code, row.reason = http.StatusOK, "no-allow"
	}
	return row
}
