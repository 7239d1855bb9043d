package k8stoken

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istio-auth/istio-auth/attest"
)

const unavailableWant = "unavailable"

// A row of FM-09 is an answer to a TokenReview: a good one that was changed, or
// bytes on the wire. want is the reason code when an agent shows the token for
// a workload, wantAgent when the agent shows it for itself, if that differs.
type fm09 struct {
	name            string
	change          func(*authv1.TokenReviewStatus)
	wire            func(http.ResponseWriter, authv1.TokenReview)
	want, wantAgent string
}

func statusRows() (rows []fm09) {
	add := func(name, want string, change func(*authv1.TokenReviewStatus)) {
		rows = append(rows, fm09{name: name, want: want, change: change})
	}
	add("good", "", func(*authv1.TokenReviewStatus) {})
	add("nothing", "token-not-authenticated", func(s *authv1.TokenReviewStatus) { *s = authv1.TokenReviewStatus{} })
	add("all but authenticated", "token-not-authenticated", func(s *authv1.TokenReviewStatus) { s.Authenticated = false })
	add("an error alone", "token-not-authenticated", func(s *authv1.TokenReviewStatus) { *s = authv1.TokenReviewStatus{Error: "no"} })
	add("authenticated alone", "token-audience-missing", func(s *authv1.TokenReviewStatus) { *s = authv1.TokenReviewStatus{Authenticated: true} })
	add("authenticated, with an error", "token-review-error", func(s *authv1.TokenReviewStatus) { s.Error = "lookup failed" })
	add("authenticated, with a blank error", "token-review-error", func(s *authv1.TokenReviewStatus) { s.Error = " " })

	for name, audiences := range map[string][]string{"no audiences": nil, "an empty list of audiences": {}} {
		add(name, "token-audience-missing", func(s *authv1.TokenReviewStatus) { s.Audiences = audiences })
	}
	for name, extra := range map[string]string{"another audience": "other", "the API server's audience": "https://kubernetes.default.svc", "ours again": "=", "an empty audience": ""} {
		add(name+" behind ours", "token-audience-several", func(s *authv1.TokenReviewStatus) {
			if extra == "=" {
				extra = s.Audiences[0]
			}
			s.Audiences = append(s.Audiences, extra)
		})
	}
	add("another audience in front of ours", "token-audience-several", func(s *authv1.TokenReviewStatus) { s.Audiences = []string{"other", s.Audiences[0]} })
	for name, f := range map[string]func(string) string{
		"empty": func(string) string { return "" }, "upper case": strings.ToUpper, "a prefix": func(s string) string { return s[:len(s)-1] },
		"longer": func(s string) string { return s + "x" }, "a dot more": func(s string) string { return s + "." }, "a space before": func(s string) string { return " " + s },
		"a newline": func(s string) string { return s + "\n" }, "a NUL": func(s string) string { return s + "\x00" }, "a comma": func(s string) string { return s + ",other" },
		"another domain": func(s string) string { return strings.Replace(s, "mesh", "other", 1) }, "a star": func(string) string { return "*" },
		"the API server's": func(string) string { return "https://kubernetes.default.svc" },
		"ours for the other purpose": func(s string) string {
			if s == AgentAudience(domain) {
				return WorkloadAudience(domain)
			}
			return AgentAudience(domain)
		},
	} {
		add("audience "+name, "token-audience-other", func(s *authv1.TokenReviewStatus) { s.Audiences[0] = f(s.Audiences[0]) })
	}
	return rows
}

func userRows() (rows []fm09) {
	user := func(name, want, wantAgent string) {
		rows = append(rows, fm09{name: fmt.Sprintf("user %q", name), want: want, wantAgent: wantAgent, change: func(s *authv1.TokenReviewStatus) { s.User.Username = name }})
	}
	for _, name := range []string{
		"", "admin", "system:anonymous", "system:node:node-1", "system:kube-proxy", "system:serviceaccount", "system:serviceaccount:", "system:serviceaccount::",
		"system:serviceaccount:istio-auth", "system:serviceaccount:istio-auth:", "system:serviceaccount::nodeagent", "system:serviceaccount:a:b:c",
		"system:serviceaccount:istio-auth:nodeagent:", "system:serviceaccount:istio-auth:nodeagent:x", "system:serviceaccount:istio-auth::nodeagent",
		"system:serviceaccounts:istio-auth:nodeagent", "System:ServiceAccount:istio-auth:nodeagent", " system:serviceaccount:istio-auth:nodeagent",
		"oidc:system:serviceaccount:istio-auth:nodeagent", "system:serviceaccount/istio-auth/nodeagent", "istio-auth:nodeagent",
		"spiffe://mesh.example/istio-auth/node/node-1/node-1-uid",
	} {
		user(name, "token-username", "")
	}
	for _, account := range []string{
		"Nodeagent", "node agent", "nodeagent ", "nodeagent\n", "nodeagent\x00", "nodeagent/x", "../nodeagent", "nodeagent%2f", "node_agent", "-nodeagent", "nodeagent.", "node..agent", ".",
		"n\u043edeagent", "nodeagent\u200b", strings.Repeat("x", 254), "*",
	} {
		user("system:serviceaccount:istio-auth:"+account, "bad-service-account", "")
	}
	user("system:serviceaccount:istio-auth:other", "pod-other-service-account", "account-not-ours")
	user("system:serviceaccount:istio-auth:manager", "pod-other-service-account", "")
	user("system:serviceaccount:other:nodeagent", "token-group", "")
	user("system:serviceaccount:Istio-auth:nodeagent", "token-group", "")
	for name, namespace := range map[string]string{"upper case": "Istio", "a dot": "a.b", "a slash": "a/b", "dots": "..", "a NUL": "a\x00", "64 bytes": strings.Repeat("x", 64)} {
		rows = append(rows, fm09{name: "namespace with " + name, want: "bad-namespace", change: func(s *authv1.TokenReviewStatus) {
			s.User.Username, s.User.Groups = userPrefix+namespace+":nodeagent", []string{groupPrefix + namespace}
		}})
	}
	for name, groups := range map[string][]string{
		"none": nil, "authenticated alone": {"system:authenticated"}, "all accounts alone": {"system:serviceaccounts"}, "another namespace": {"system:serviceaccounts:other"},
		"an empty namespace": {"system:serviceaccounts:"}, "upper case": {"System:Serviceaccounts:istio-auth"}, "a space": {"system:serviceaccounts:istio-auth "},
		"a longer namespace": {"system:serviceaccounts:istio-auth-2"}, "another namespace too": {"system:serviceaccounts:istio-auth", "system:serviceaccounts:other"},
		"another namespace first": {"system:serviceaccounts:other", "system:serviceaccounts:istio-auth"}, "masters alone": {"system:masters"},
		"the account's name": {"system:serviceaccount:istio-auth:nodeagent"},
	} {
		rows = append(rows, fm09{name: "groups: " + name, want: "token-group", change: func(s *authv1.TokenReviewStatus) { s.User.Groups = groups }})
	}
	rows = append(rows, fm09{name: "groups: more than are needed", change: func(s *authv1.TokenReviewStatus) { s.User.Groups = append(s.User.Groups, "x") }})
	return rows
}

func claimRows() (rows []fm09) {
	reasons := map[string]string{extraPodName: "bad-pod-name", extraPodUID: "bad-pod-uid", extraNodeName: "bad-node-name", extraNodeUID: "bad-node-uid", extraCredentialID: "token-credential-id"}
	others := map[string][2]string{
		extraPodName: {"token-other-pod", "pod-not-found"}, extraPodUID: {"token-other-pod", "pod-other-uid"},
		extraNodeName: {"token-other-node", "pod-other-node"}, extraNodeUID: {"token-other-node", "node-other-uid"},
	}
	for key, reason := range reasons {
		add := func(name, want, wantAgent string, change func(map[string]authv1.ExtraValue)) {
			rows = append(rows, fm09{name: key + " " + name, want: want, wantAgent: wantAgent, change: func(s *authv1.TokenReviewStatus) { change(s.User.Extra) }})
		}
		add("missing", "token-claim-missing", "", func(e map[string]authv1.ExtraValue) { delete(e, key) })
		add("an empty list", "token-claim-missing", "", func(e map[string]authv1.ExtraValue) { e[key] = authv1.ExtraValue{} })
		add("under a key in upper case", "token-claim-missing", "", func(e map[string]authv1.ExtraValue) { e[strings.ToUpper(key)] = e[key]; delete(e, key) })
		add("under a key without a domain", "token-claim-missing", "", func(e map[string]authv1.ExtraValue) {
			e[key[len("authentication.kubernetes.io/"):]] = e[key]
			delete(e, key)
		})
		add("twice", "token-claim-several", "", func(e map[string]authv1.ExtraValue) { e[key] = append(e[key], e[key][0]) })
		add("with another behind", "token-claim-several", "", func(e map[string]authv1.ExtraValue) { e[key] = append(e[key], "x") })
		add("with an empty one in front", "token-claim-several", "", func(e map[string]authv1.ExtraValue) { e[key] = authv1.ExtraValue{"", e[key][0]} })
		for name, value := range map[string]string{
			"empty": "", "a space": " ", "a slash": "a/b", "dots": "..", "upper case": "A", "a NUL": "a\x00", "a newline": "a\n", "a comma": "a,b", "not ASCII": "n\u043ede", "254 bytes": strings.Repeat("x", 254),
		} {
			add(name, reason, "", func(e map[string]authv1.ExtraValue) { e[key] = authv1.ExtraValue{value} })
		}
		if want, ok := others[key]; ok {
			add("of another", want[0], want[1], func(e map[string]authv1.ExtraValue) { e[key] = authv1.ExtraValue{"other"} })
		}
	}
	uuid := strings.TrimPrefix(jti, "JTI=")
	for _, value := range []string{uuid, "JTI=", "jti=" + uuid, "JTI:" + uuid, "JTI= " + uuid, "JTI=" + strings.ToUpper(uuid), "JTI={" + uuid + "}", "JTI=" + uuid + "\n", "JTI=" + uuid + uuid,
		"JTI=" + uuid[:35], "JTI=" + strings.ReplaceAll(uuid, "-", ""), "JTI=" + strings.ReplaceAll(uuid, "-", "0"), "JTI=" + strings.Replace(uuid, "6", "g", 1), "JTI=JTI=" + uuid, "X509SHA256=" + strings.Repeat("a", 64)} {
		rows = append(rows, fm09{name: fmt.Sprintf("credential id %q", value), want: "token-credential-id", change: func(s *authv1.TokenReviewStatus) {
			s.User.Extra[extraCredentialID] = authv1.ExtraValue{value}
		}})
	}
	rows = append(rows, fm09{name: "claims that nobody asked for", change: func(s *authv1.TokenReviewStatus) { s.User.Extra["x"] = authv1.ExtraValue{"y", "z"} }})
	return rows
}

func wireRows() (rows []fm09) {
	body := func(name, want, contentType string, code int, text string) {
		rows = append(rows, fm09{name: "wire: " + name, want: want, wire: func(w http.ResponseWriter, _ authv1.TokenReview) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(code)
			fmt.Fprint(w, text)
		}})
	}
	const (
		js   = "application/json"
		head = `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview",`
	)
	for name, text := range map[string]string{
		"empty": "", "a space": " ", "an array": "[]", "a string": `"yes"`, "true": "true", "a number": "1", "half an object": head + `"status":{"authenticated":true`,
		"NUL bytes": "\x00\x00\x00\x00", "not UTF-8": "\xff\xfe{}", "a list": `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReviewList","status":{"authenticated":true}}`, "an unknown version": strings.Replace(head, "/v1", "/v9", 1) + `"status":{"authenticated":true}}`,
		"authenticated as a string": head + `"status":{"authenticated":"true"}}`, "authenticated as a number": head + `"status":{"authenticated":1}}`, "audiences as a string": head + `"status":{"authenticated":true,"audiences":"x"}}`,
		"claims as a string": head + `"status":{"authenticated":true,"user":{"extra":{"authentication.kubernetes.io/pod-name":"x"}}}}`, "status as a list": head + `"status":[true]}`, "deep": strings.Repeat("[", 100_000),
		"a failure with 200": `{"apiVersion":"v1","kind":"Status","status":"Failure","code":500}`, "HTML": "<html>200</html>",
	} {
		body(name, unavailableWant, js, 200, text)
	}
	// client-go takes these for a TokenReview that says little.
	body("no kind", "token-audience-missing", js, 200, `{"status":{"authenticated":true}}`)
	for name, text := range map[string]string{"null": "null", "another kind": `{"apiVersion":"v1","kind":"Pod","status":{"authenticated":true}}`, "an object without a status": head + `"spec":{}}`, "a null status": head + `"status":null}`, "status in upper case": head + `"STATUS":{"authenticated":true}}`, "false": head + `"status":{"authenticated":false}}`} {
		body(name, "token-not-authenticated", js, 200, text)
	}
	body("a page for JSON", unavailableWant, "text/html", 200, "<html>login</html>")
	body("protobuf that is none", unavailableWant, "application/vnd.kubernetes.protobuf", 200, "k8s\x00garbage")
	body("10 MB of error", unavailableWant, js, 200, head+`"status":{"authenticated":false,"error":"`+strings.Repeat("x", 10<<20)+`"}}`)
	body("5 MB of white space", unavailableWant, js, 200, strings.Repeat(" ", 5<<20)+head+`"status":{}}`)
	for code, want := range map[int]string{400: "token-not-reviewable", 422: "token-not-reviewable", 401: unavailableWant, 403: unavailableWant, 404: unavailableWant, 405: unavailableWant,
		406: unavailableWant, 409: unavailableWant, 413: unavailableWant, 429: unavailableWant, 500: unavailableWant, 502: unavailableWant, 503: unavailableWant, 504: unavailableWant} {
		reasons := map[int]metav1.StatusReason{400: metav1.StatusReasonBadRequest, 422: metav1.StatusReasonInvalid, 429: metav1.StatusReasonTooManyRequests, 403: metav1.StatusReasonForbidden, 404: metav1.StatusReasonNotFound}
		rows = append(rows, fm09{name: fmt.Sprintf("wire: %d", code), want: want, wire: func(w http.ResponseWriter, _ authv1.TokenReview) {
			w.Header().Set("Retry-After", "3600")
			writeStatus(w, code, reasons[code])
		}})
		body(fmt.Sprintf("%d of a proxy", code), unavailableWant, "text/html", code, "<html></html>")
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		rows = append(rows, fm09{name: fmt.Sprintf("wire: redirect %d to a good answer", code), want: unavailableWant, wire: func(w http.ResponseWriter, _ authv1.TokenReview) {
			w.Header().Set("Location", "/good")
			w.WriteHeader(code)
		}})
	}
	for _, code := range []int{200, 201, 202} {
		rows = append(rows, fm09{name: fmt.Sprintf("wire: good with %d", code), want: "", wire: func(w http.ResponseWriter, good authv1.TokenReview) { writeJSON(w, code, good) }})
	}
	rows = append(rows,
		fm09{name: "wire: hung up on", want: unavailableWant, wire: func(http.ResponseWriter, authv1.TokenReview) { panic(http.ErrAbortHandler) }},
		fm09{name: "wire: hung up on in a good answer", want: unavailableWant, wire: func(w http.ResponseWriter, good authv1.TokenReview) {
			text, _ := json.Marshal(good)
			w.Header().Set("Content-Type", js)
			w.Write(text[:len(text)-1])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}},
		fm09{name: "wire: a good answer with a failure's number", want: unavailableWant, wire: func(w http.ResponseWriter, good authv1.TokenReview) { writeJSON(w, 500, good) }},
	)
	return rows
}

// TestFM09 has the API server give one hostile answer after another, for a
// workload and for an agent.
func TestFM09(t *testing.T) {
	var rows []fm09
	for _, more := range [][]fm09{statusRows(), userRows(), claimRows(), wireRows()} {
		rows = append(rows, more...)
	}
	if got, want := len(rows), 263; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	api := newAPIServer()
	pod := api.addAgent("agent-1", node1)
	hint := attest.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
	is := hint
	is.ServiceAccount = pod.Spec.ServiceAccountName
	r, agent := api.start(t), agentOf(t, node1)
	names := map[string]bool{}
	for _, row := range rows {
		if names[row.name] {
			t.Errorf("%s: twice", row.name)
		}
		names[row.name] = true
		for _, audience := range []string{WorkloadAudience(domain), AgentAudience(domain)} {
			review := authv1.TokenReview{TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}, Status: status(is, node1, audience)}
			if row.change != nil {
				row.change(&review.Status)
			}
			answer := func(w http.ResponseWriter, req *http.Request) bool {
				switch {
				case req.URL.Path == "/good":
					writeJSON(w, 200, review)
				case !strings.HasSuffix(req.URL.Path, "/tokenreviews"):
					return false
				case row.wire != nil:
					row.wire(w, review)
				default:
					writeJSON(w, 201, review)
				}
				return true
			}
			api.mu.Lock()
			api.answer = answer
			api.mu.Unlock()
			want := row.want
			var got attest.Identity
			var err error
			if audience == AgentAudience(domain) {
				if row.wantAgent != "" {
					want = row.wantAgent
				}
				got, err = r.AttestAgent(t.Context(), attest.NewToken("t"))
			} else {
				got, err = r.AttestWorkload(t.Context(), agent, hint, attest.NewToken("t"))
			}
			judge(t, row.name+" to "+audience, got, err, want)
		}
	}
}

// judge reports an outcome that is not the one wanted: "" is acceptance,
// "unavailable" is ErrUnavailable, and all else is a reason code.
func judge(t *testing.T, name string, got attest.Identity, err error, want string) {
	t.Helper()
	refused, unavailable := errors.Is(err, attest.ErrRefused), errors.Is(err, attest.ErrUnavailable)
	switch {
	case got.IsZero() != (err != nil):
		t.Errorf("%s: identity %q beside error %v", name, got, err)
	case want == "" && err != nil, want != "" && err == nil:
		t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
	case want == unavailableWant:
		if !unavailable || refused {
			t.Errorf("%s: got %v, want it unavailable", name, err)
		}
	case want != "":
		if attest.Reason(err) != want || unavailable {
			t.Errorf("%s: got %v, want reason %q", name, err, want)
		}
	}
}

// FuzzTokenReview: of whatever the API server answers, what is accepted says
// exactly what came out.
func FuzzTokenReview(f *testing.F) {
	good := status(attest.Pod{Namespace: "shop", Name: "web-0", UID: "u", ServiceAccount: "web"}, node1, "a")
	text, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		var s authv1.TokenReviewStatus
		if json.Unmarshal(data, &s) != nil {
			return
		}
		i, err := interpret(domain, s, []string{"a", "b"})
		if err != nil {
			if attest.Reason(err) == "" || !i.IsZero() {
				t.Fatalf("refused without a reason: %v", err)
			}
			return
		}
		again := status(i.Pod(), i.Node(), s.Audiences[0])
		one := func(key string) string {
			return fmt.Sprint(len(s.User.Extra[key]), again.User.Extra[key], s.User.Extra[key])
		}
		for key, value := range again.User.Extra {
			if key != extraCredentialID && (len(s.User.Extra[key]) != 1 || s.User.Extra[key][0] != value[0]) {
				t.Fatalf("%s: %s", key, one(key))
			}
		}
		if !s.Authenticated || s.Error != "" || len(s.Audiences) != 1 || s.Audiences[0] != "a" && s.Audiences[0] != "b" || s.User.Username != again.User.Username ||
			i.Kind() != attest.Workload || len(s.User.Extra[extraCredentialID]) != 1 {
			t.Fatalf("accepted %+v as %+v", s, i)
		}
	})
}
