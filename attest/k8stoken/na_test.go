package k8stoken

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/istio-auth/istio-auth/attest"
)

var (
	web  = attest.Pod{Namespace: "shop", Name: "web-0", UID: "web-0-uid", ServiceAccount: "web"}
	web2 = attest.Pod{Namespace: "shop", Name: "web-1", UID: "web-1-uid", ServiceAccount: "web"}
	db   = attest.Pod{Namespace: "shop", Name: "db-0", UID: "db-0-uid", ServiceAccount: "db"}
)

// cluster has an agent on each of two nodes, two pods of one account apart, and
// one more on the second node.
func cluster() *apiserver {
	api := newAPIServer()
	api.addAgent("agent-1", node1)
	api.addAgent("agent-2", node2)
	api.addPod(web, node1)
	api.addPod(web2, node2)
	api.addPod(db, node2)
	api.addPod(attest.Pod{Namespace: system, Name: "manager-0", UID: "manager-0-uid", ServiceAccount: "manager"}, node2)
	return api
}

// TestNA is the node authorizer's table (THREATS 4.6), as far as it is decided
// here. A row changes the cluster and says what comes of a first certificate
// and of a renewal for the pod web-0 by the agent of node 1. NA-09, a stale
// informer, has no row: there is none, and TestEveryCallAsksTheAPIServer holds
// that. NA-15 is TestNA15.
func TestNA(t *testing.T) {
	at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(d)} }
	pod := func(a *apiserver) *corev1.Pod { return a.pods["shop/web-0"] }
	agent1, agent2 := agentOf(t, node1), agentOf(t, node2)
	foreign, err := attest.NewAgent(spiffeid.RequireTrustDomainFromString("other.example"), node1)
	if err != nil {
		t.Fatal(err)
	}
	workload, err := attest.NewWorkload(domain, node1, web)
	if err != nil {
		t.Fatal(err)
	}
	manager, err := attest.NewService(domain, "manager")
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		id, name        string
		change          func(*apiserver)
		agent           attest.Identity // zero means agent 1; None is given as `nobody`
		hint            attest.Pod      // zero means web
		token           string          // "" means web-0's workload token
		attest, confirm string
	}{
		{id: "NA-01", name: "own node"},
		{id: "NA-01", name: "own node, pending", change: func(a *apiserver) { pod(a).Status.Phase = corev1.PodPending }},
		{id: "NA-01", name: "own node, with an ephemeral container", change: func(a *apiserver) { pod(a).Spec.EphemeralContainers = []corev1.EphemeralContainer{{}} }},
		{id: "NA-01", name: "the hint's service account counts for nothing", hint: attest.Pod{Namespace: "shop", Name: "web-0", UID: "web-0-uid", ServiceAccount: "db"}},
		{id: "NA-02", name: "other node", agent: agent2, attest: "token-other-node", confirm: "pod-other-node"},
		{id: "NA-02", name: "moved to another node", change: func(a *apiserver) { pod(a).Spec.NodeName = node2.Name }, attest: "pod-other-node", confirm: "pod-other-node"},
		{id: "NA-03", name: "same account on both nodes, the other's pod", hint: web2, attest: "token-other-pod", confirm: "pod-other-node"},
		{id: "NA-03", name: "same account on both nodes, the other's pod and token", hint: web2, token: "workload:web-1", attest: "token-other-node", confirm: "pod-other-node"},
		{id: "NA-03", name: "own pod with the other's token", token: "workload:web-1", attest: "token-other-node"},
		{id: "NA-04", name: "name taken by another pod", change: func(a *apiserver) { pod(a).UID = "new" }, attest: "pod-other-uid", confirm: "pod-other-uid"},
		{id: "NA-04", name: "the new pod's UID with the old one's token", change: func(a *apiserver) { pod(a).UID = "new" }, hint: attest.Pod{Namespace: "shop", Name: "web-0", UID: "new"}, attest: "token-other-pod"},
		{id: "NA-04", name: "pod gone", change: func(a *apiserver) { delete(a.pods, "shop/web-0") }, attest: "pod-not-found", confirm: "pod-not-found"},
		{id: "NA-05", name: "succeeded", change: func(a *apiserver) { pod(a).Status.Phase = corev1.PodSucceeded }, attest: "pod-not-running", confirm: "pod-not-running"},
		{id: "NA-05", name: "failed", change: func(a *apiserver) { pod(a).Status.Phase = corev1.PodFailed }, attest: "pod-not-running", confirm: "pod-not-running"},
		{id: "NA-05", name: "unknown", change: func(a *apiserver) { pod(a).Status.Phase = corev1.PodUnknown }, attest: "pod-not-running", confirm: "pod-not-running"},
		{id: "NA-05", name: "no phase", change: func(a *apiserver) { pod(a).Status.Phase = "" }, attest: "pod-not-running", confirm: "pod-not-running"},
		{id: "NA-05", name: "a phase of the future", change: func(a *apiserver) { pod(a).Status.Phase = "Resting" }, attest: "pod-not-running", confirm: "pod-not-running"},
		{id: "NA-06", name: "terminating, within its grace", change: func(a *apiserver) { pod(a).DeletionTimestamp = at(time.Second) }},
		{id: "NA-06", name: "terminating, at its end", change: func(a *apiserver) { pod(a).DeletionTimestamp = at(0) }, attest: "pod-terminated", confirm: "pod-terminated"},
		{id: "NA-06", name: "terminating, within the token's leeway", change: func(a *apiserver) { pod(a).DeletionTimestamp = at(-30 * time.Second) }, attest: "pod-terminated", confirm: "pod-terminated"},
		{id: "NA-06", name: "held by a finalizer", change: func(a *apiserver) { pod(a).DeletionTimestamp, pod(a).Finalizers = at(-time.Hour), []string{"x/y"} }, attest: "pod-terminated", confirm: "pod-terminated"},
		{id: "NA-07", name: "mirror", change: func(a *apiserver) { pod(a).Annotations = map[string]string{"kubernetes.io/config.mirror": "hash"} }, attest: "pod-mirror", confirm: "pod-mirror"},
		{id: "NA-07", name: "mirror with an empty hash", change: func(a *apiserver) { pod(a).Annotations = map[string]string{"kubernetes.io/config.mirror": ""} }, attest: "pod-mirror", confirm: "pod-mirror"},
		{id: "NA-08", name: "without an account", change: func(a *apiserver) { pod(a).Spec.ServiceAccountName = "" }, attest: "pod-no-service-account", confirm: "pod-no-service-account"},
		{id: "NA-08", name: "of another account than the token", change: func(a *apiserver) { pod(a).Spec.ServiceAccountName = "db" }, attest: "pod-other-service-account"},
		{id: "NA-10", name: "hint with another UID", hint: attest.Pod{Namespace: "shop", Name: "web-0", UID: "x"}, attest: "token-other-pod", confirm: "pod-other-uid"},
		{id: "NA-10", name: "hint with another namespace", hint: attest.Pod{Namespace: "x", Name: "web-0", UID: "web-0-uid"}, attest: "token-other-pod", confirm: "pod-not-found"},
		{id: "NA-10", name: "hint with another name", hint: attest.Pod{Namespace: "shop", Name: "x", UID: "web-0-uid"}, attest: "token-other-pod", confirm: "pod-not-found"},
		{id: "NA-10", name: "hint without a UID", hint: attest.Pod{Namespace: "shop", Name: "web-0"}, attest: "bad-pod-uid", confirm: "bad-pod-uid"},
		{id: "NA-10", name: "hint that climbs", hint: attest.Pod{Namespace: "shop", Name: "../../nodes/node-1", UID: "x"}, attest: "bad-pod-name", confirm: "bad-pod-name"},
		{id: "NA-10", name: "hint without a namespace", hint: attest.Pod{Name: "web-0", UID: "web-0-uid"}, attest: "bad-namespace", confirm: "bad-namespace"},
		{id: "NA-11", name: "node made anew under its name", change: func(a *apiserver) { a.nodes["node-1"].UID = "new" }, attest: "node-other-uid", confirm: "node-other-uid"},
		{id: "NA-11", name: "node gone", change: func(a *apiserver) { delete(a.nodes, "node-1") }, attest: "node-not-found", confirm: "node-not-found"},
		{id: "NA-11", name: "an agent of the old node", agent: agentOf(t, attest.Node{Name: "node-1", UID: "old"}), attest: "token-other-node", confirm: "node-other-uid"},
		{id: "NA-12", name: "token without a node", change: func(a *apiserver) {
			delete(a.tokens["workload:web-0"].User.Extra, extraNodeName)
			delete(a.tokens["workload:web-0"].User.Extra, extraNodeUID)
		}, attest: "token-claim-missing"},
		{id: "NA-12", name: "pod on no node", change: func(a *apiserver) { pod(a).Spec.NodeName = "" }, attest: "pod-not-scheduled", confirm: "pod-not-scheduled"},
		{id: "NA-13", name: "token of another node", change: func(a *apiserver) { a.tokens["workload:web-0"] = status(web, node2, WorkloadAudience(domain)) }, attest: "token-other-node"},
		{id: "NA-13", name: "token of this name and another UID", change: func(a *apiserver) {
			a.tokens["workload:web-0"] = status(web, attest.Node{Name: "node-1", UID: "x"}, WorkloadAudience(domain))
		}, attest: "token-other-node"},
		{id: "NA-14", name: "an agent of another trust domain", agent: foreign, attest: "not-an-agent", confirm: "not-an-agent"},
		{id: "NA-14", name: "a workload for an agent", agent: workload, attest: "not-an-agent", confirm: "not-an-agent"},
		{id: "NA-14", name: "a service for an agent", agent: manager, attest: "not-an-agent", confirm: "not-an-agent"},
		{id: "NA-14", name: "the pod's token for agents", token: "agent:web-0", attest: "token-not-authenticated"},
		{id: "NA-14", name: "no such token", token: "x", attest: "token-not-authenticated"},
		{id: "NA-14", name: "a token that is too long", token: strings.Repeat("x", maxToken+1), attest: "token-too-long"},
		{id: "NA-14", name: "another pod in the answer", change: func(a *apiserver) { a.pods["shop/web-0"] = a.pods["shop/db-0"] }, attest: "pod-other-name", confirm: "pod-other-name"},
	}
	if got, want := len(rows), 45; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	for _, row := range rows {
		api := cluster()
		if row.change != nil {
			row.change(api)
		}
		agent, hint, token := agent1, web, "workload:web-0"
		if !row.agent.IsZero() {
			agent = row.agent
		}
		if row.hint != (attest.Pod{}) {
			hint = row.hint
		}
		if row.token != "" {
			token = row.token
		}
		r := api.start(t)
		got, err := r.AttestWorkload(t.Context(), agent, hint, attest.NewToken(token))
		judge(t, row.id+" attest: "+row.name, got, err, row.attest)
		if err == nil && got != workload {
			t.Errorf("%s attest: %s: got %+v, want %+v", row.id, row.name, got, workload)
		}
		got, err = r.ConfirmWorkload(t.Context(), agent, hint)
		judge(t, row.id+" confirm: "+row.name, got, err, row.confirm)
		if err == nil && got.ID().String() != "spiffe://mesh.example/ns/shop/sa/"+pod(api).Spec.ServiceAccountName {
			t.Errorf("%s confirm: %s: got %+v, not the live pod's account", row.id, row.name, got)
		}
	}
	r := cluster().start(t)
	if _, err := r.ConfirmWorkload(t.Context(), attest.Identity{}, web); attest.Reason(err) != "not-an-agent" {
		t.Errorf("nobody for an agent: %v", err)
	}
	if _, err := r.AttestWorkload(t.Context(), agent1, web, attest.Token{}); attest.Reason(err) != "token-missing" {
		t.Errorf("no token: %v", err)
	}
}

// TestAgents says who becomes an agent or a service, and who does not.
func TestAgents(t *testing.T) {
	no, yes := false, true
	agentPod := func(a *apiserver) *corev1.Pod { return a.pods[system+"/agent-1"] }
	owner := func(change func(*metav1.OwnerReference)) func(*apiserver) {
		return func(a *apiserver) { change(&agentPod(a).OwnerReferences[0]) }
	}
	for _, row := range []struct {
		name, token string
		change      func(*apiserver)
		want, id    string
	}{
		{name: "agent", token: "agent:agent-1", id: "spiffe://mesh.example/istio-auth/node/node-1/node-1-uid"},
		{name: "manager", token: "agent:manager-0", id: "spiffe://mesh.example/istio-auth/manager"},
		{name: "a workload's token", token: "workload:agent-1", want: "token-not-authenticated"},
		{name: "a workload with a token for agents, right node and all", token: "agent:web-0", want: "account-not-ours"},
		{name: "no token", token: "", want: "token-missing"},
		{name: "another account's agent", token: "agent:agent-1", change: func(a *apiserver) {
			a.tokens["agent:agent-1"] = status(attest.Pod{Namespace: system, Name: "agent-1", UID: "agent-1-uid", ServiceAccount: "nodeagent-2"}, node1, AgentAudience(domain))
		}, want: "account-not-ours"},
		{name: "the account's name in another namespace", token: "agent:x", change: func(a *apiserver) {
			a.addPod(attest.Pod{Namespace: "shop", Name: "x", UID: "x", ServiceAccount: "nodeagent"}, node1)
		}, want: "account-not-ours"},
		{name: "the manager's name in another namespace", token: "agent:x", change: func(a *apiserver) {
			a.addPod(attest.Pod{Namespace: "shop", Name: "x", UID: "x", ServiceAccount: "manager"}, node1)
		}, want: "account-not-ours"},
		{name: "no owner", token: "agent:agent-1", change: func(a *apiserver) { agentPod(a).OwnerReferences = nil }, want: "agent-not-of-daemonset"},
		{name: "another DaemonSet", token: "agent:agent-1", change: owner(func(o *metav1.OwnerReference) { o.Name = "nodeagent-2" }), want: "agent-not-of-daemonset"},
		{name: "a Deployment's", token: "agent:agent-1", change: owner(func(o *metav1.OwnerReference) { o.Kind = "ReplicaSet" }), want: "agent-not-of-daemonset"},
		{name: "another group's DaemonSet", token: "agent:agent-1", change: owner(func(o *metav1.OwnerReference) { o.APIVersion = "evil.example/v1" }), want: "agent-not-of-daemonset"},
		{name: "an owner that does not control", token: "agent:agent-1", change: owner(func(o *metav1.OwnerReference) { o.Controller = &no }), want: "agent-not-of-daemonset"},
		{name: "an owner that does not say", token: "agent:agent-1", change: owner(func(o *metav1.OwnerReference) { o.Controller = nil }), want: "agent-not-of-daemonset"},
		{name: "a second owner that does not control", token: "agent:agent-1", change: func(a *apiserver) {
			agentPod(a).OwnerReferences = []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "nodeagent", Controller: &no}, {APIVersion: "apps/v1", Kind: "DaemonSet", Name: "x", Controller: &yes}}
		}, want: "agent-not-of-daemonset"},
		{name: "gone", token: "agent:agent-1", change: func(a *apiserver) { delete(a.pods, system+"/agent-1") }, want: "pod-not-found"},
		{name: "made anew", token: "agent:agent-1", change: func(a *apiserver) { agentPod(a).UID = "new" }, want: "pod-other-uid"},
		{name: "moved", token: "agent:agent-1", change: func(a *apiserver) { agentPod(a).Spec.NodeName = "node-2" }, want: "pod-other-node"},
		{name: "ended", token: "agent:agent-1", change: func(a *apiserver) { agentPod(a).Status.Phase = corev1.PodFailed }, want: "pod-not-running"},
		{name: "mirror", token: "agent:agent-1", change: func(a *apiserver) { agentPod(a).Annotations = map[string]string{mirrorAnnotation: "x"} }, want: "pod-mirror"},
		{name: "node made anew", token: "agent:agent-1", change: func(a *apiserver) { a.nodes["node-1"].UID = "new" }, want: "node-other-uid"},
		{name: "manager gone", token: "agent:manager-0", change: func(a *apiserver) { delete(a.pods, system+"/manager-0") }, want: "pod-not-found"},
		{name: "manager ended", token: "agent:manager-0", change: func(a *apiserver) { a.pods[system+"/manager-0"].Status.Phase = corev1.PodSucceeded }, want: "pod-not-running"},
	} {
		api := cluster()
		if row.change != nil {
			row.change(api)
		}
		got, err := api.start(t).AttestAgent(t.Context(), attest.NewToken(row.token))
		judge(t, row.name, got, err, row.want)
		if err == nil && got.ID().String() != row.id {
			t.Errorf("%s: got %s, want %s", row.name, got, row.id)
		}
	}

	// An empty list means nobody.
	api := cluster()
	r := api.start(t)
	c := r.Config
	c.Agents, c.Services = nil, nil
	nobody, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"agent:agent-1", "agent:manager-0", "agent:web-0"} {
		got, err := nobody.AttestAgent(t.Context(), attest.NewToken(token))
		judge(t, "empty lists, "+token, got, err, "account-not-ours")
	}
}

// TestNA15 plays an evil node: with every token of the pods on node 1, as its
// agent, under every hint that it can make up, it gets the identities of its own
// pods and of nobody else's.
func TestNA15(t *testing.T) {
	api := cluster()
	agent := agentOf(t, node1)
	tokens := []string{"agent:agent-1", "workload:agent-1", "agent:web-0", "workload:web-0", ""}
	r := api.start(t)
	var hints []attest.Pod
	for _, ns := range []string{"shop", system, "kube-system"} {
		for _, name := range []string{"web-0", "web-1", "db-0", "agent-1", "agent-2", "manager-0", "none"} {
			for _, uid := range []string{"web-0-uid", "web-1-uid", "db-0-uid", "agent-1-uid", "agent-2-uid", "manager-0-uid", "node-2-uid"} {
				hints = append(hints, attest.Pod{Namespace: ns, Name: name, UID: uid, ServiceAccount: "db"})
			}
		}
	}
	own := map[string]bool{"shop/web-0": true, system + "/agent-1": true}
	got, tried := map[string]int{}, 0
	for _, hint := range hints {
		for _, token := range append(slices.Clone(tokens), "confirm") {
			tried++
			var i attest.Identity
			var err error
			if token == "confirm" {
				i, err = r.ConfirmWorkload(t.Context(), agent, hint)
			} else {
				i, err = r.AttestWorkload(t.Context(), agent, hint, attest.NewToken(token))
			}
			if err != nil {
				continue
			}
			pod := i.Pod().Namespace + "/" + i.Pod().Name
			got[pod]++
			if !own[pod] || i.Node() != node1 || i.Kind() != attest.Workload {
				t.Errorf("hint %v, token %s: got %+v", hint, token, i)
			}
		}
	}
	if tried != 882 || got["shop/web-0"] != 2 || got[system+"/agent-1"] != 2 || len(got) != 2 {
		t.Errorf("of %d attempts these succeeded: %v", tried, got)
	}
}

// TestEveryCallAsksTheAPIServer: nothing is remembered, be it a token or a pod.
func TestEveryCallAsksTheAPIServer(t *testing.T) {
	api := cluster()
	r, agent := api.start(t), agentOf(t, node1)
	for range 2 {
		api.calls = nil
		if _, err := r.AttestWorkload(t.Context(), agent, web, attest.NewToken("workload:web-0")); err != nil {
			t.Fatal(err)
		}
		slices.Sort(api.calls)
		want := []string{"GET /api/v1/namespaces/shop/pods/web-0", "GET /api/v1/nodes/node-1", "POST /apis/authentication.k8s.io/v1/tokenreviews"}
		if !slices.Equal(api.calls, want) {
			t.Errorf("attest called %q, want %q", api.calls, want)
		}
		api.calls = nil
		if _, err := r.ConfirmWorkload(t.Context(), agent, web); err != nil {
			t.Fatal(err)
		}
		slices.Sort(api.calls)
		if !slices.Equal(api.calls, want[:2]) {
			t.Errorf("confirm called %q, want %q", api.calls, want[:2])
		}
	}
	delete(api.pods, "shop/web-0")
	if got, err := r.AttestWorkload(t.Context(), agent, web, attest.NewToken("workload:web-0")); attest.Reason(err) != "pod-not-found" {
		t.Errorf("after the pod is gone: %v, %v", got, err)
	}
}

func TestAttestBearer(t *testing.T) {
	api := cluster()
	api.tokens["istio"] = status(web, node1, "istio-ca")
	two := status(web, node1, "istio-ca")
	two.Audiences = []string{"istio-ca", "other"}
	api.tokens["two"] = two
	gone := status(db, node1, "istio-ca") // db is on node 2
	api.tokens["elsewhere"] = gone
	r := api.start(t)
	for _, row := range []struct {
		name, token string
		audiences   []string
		want        string
	}{
		{"good", "istio", []string{"istio-ca"}, ""},
		{"good, one of two that are accepted", "istio", []string{"other", "istio-ca"}, ""},
		{"a token of both", "two", []string{"other", "istio-ca"}, "token-audience-several"},
		{"no audience", "istio", nil, "audience-none"},
		{"a workload's token", "workload:web-0", []string{"istio-ca"}, "token-not-authenticated"},
		{"a workload's token, were its audience allowed", "workload:web-0", []string{"istio-ca", WorkloadAudience(domain)}, "audience-reserved"},
		{"an agent's token, were its audience allowed", "agent:agent-1", []string{AgentAudience(domain)}, "audience-reserved"},
		{"a pod that is not where its token says", "elsewhere", []string{"istio-ca"}, "pod-other-node"},
	} {
		got, err := r.AttestBearer(t.Context(), attest.NewToken(row.token), row.audiences)
		judge(t, row.name, got, err, row.want)
		if err == nil && (got.Kind() != attest.Workload || got.Pod() != web || got.Node() != node1) {
			t.Errorf("%s: got %+v", row.name, got)
		}
	}
	api.pods["shop/web-0"].UID = "new"
	got, err := r.AttestBearer(t.Context(), attest.NewToken("istio"), []string{"istio-ca"})
	judge(t, "pod made anew", got, err, "pod-other-uid")
}

// TestUnavailable: an API server that does not answer about the pod or the node
// says nothing about them.
func TestUnavailable(t *testing.T) {
	agent := agentOf(t, node1)
	for _, path := range []string{"/tokenreviews", "/pods/web-0", "/nodes/node-1"} {
		for name, answer := range map[string]func(http.ResponseWriter){
			"403": func(w http.ResponseWriter) { writeStatus(w, 403, metav1.StatusReasonForbidden) },
			"429": func(w http.ResponseWriter) {
				w.Header().Set("Retry-After", "3600")
				writeStatus(w, 429, metav1.StatusReasonTooManyRequests)
			},
			"500": func(w http.ResponseWriter) { writeStatus(w, 500, metav1.StatusReasonInternalError) }, "503": func(w http.ResponseWriter) { w.WriteHeader(503) },
			"404 of a proxy": func(w http.ResponseWriter) { w.WriteHeader(404) }, "redirect": func(w http.ResponseWriter) { w.Header().Set("Location", "/x"); w.WriteHeader(302) },
			"HTML": func(w http.ResponseWriter) { fmt.Fprint(w, "<html>") }, "too much": func(w http.ResponseWriter) { fmt.Fprint(w, strings.Repeat(" ", maxAnswer+1)) },
		} {
			api := cluster()
			api.answer = func(w http.ResponseWriter, req *http.Request) bool {
				if strings.HasSuffix(req.URL.Path, path) {
					answer(w)
					return true
				}
				return false
			}
			r := api.start(t)
			got, err := r.AttestWorkload(t.Context(), agent, web, attest.NewToken("workload:web-0"))
			judge(t, path+" "+name, got, err, unavailableWant)
		}
	}
}

// TestDeadline: a silent API server holds nobody longer than two seconds a call,
// and a caller that goes leaves nothing behind.
func TestDeadline(t *testing.T) {
	for _, path := range []string{"/tokenreviews", "/pods/web-0", "/nodes/node-1"} {
		synctest.Test(t, func(t *testing.T) {
			api := cluster()
			r := newReviewer(t, &rest.Config{Host: "http://fake", Transport: inProcess{api, path, nil}})
			start := time.Now()
			got, err := r.AttestWorkload(t.Context(), agentOf(t, node1), web, attest.NewToken("workload:web-0"))
			judge(t, path, got, err, unavailableWant)
			if took := time.Since(start); took != 2*time.Second {
				t.Errorf("%s: gave up after %s, want 2s", path, took)
			}
			broken := newReviewer(t, &rest.Config{Host: "http://fake", Transport: inProcess{api, path, io.ErrUnexpectedEOF}})
			start = time.Now()
			got, err = broken.AttestWorkload(t.Context(), agentOf(t, node1), web, attest.NewToken("workload:web-0"))
			judge(t, path+" broken", got, err, unavailableWant)
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("%s broken: gave up after %s, want 2s at most", path, took)
			}
		})
	}
}

// TestRetryAfter: a busy API server is asked once, and its word is passed on at
// once; client-go of its own would wait and ask again.
func TestRetryAfter(t *testing.T) {
	for _, path := range []string{"/tokenreviews", "/pods/web-0", "/nodes/node-1"} {
		synctest.Test(t, func(t *testing.T) {
			api, asked := cluster(), 0
			api.answer = func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.HasSuffix(req.URL.Path, path) {
					return false
				}
				asked++
				w.Header().Set("Retry-After", "1")
				writeStatus(w, 429, metav1.StatusReasonTooManyRequests)
				return true
			}
			r, start := newReviewer(t, &rest.Config{Host: "http://fake", Transport: inProcess{api: api}}), time.Now()
			got, err := r.AttestWorkload(t.Context(), agentOf(t, node1), web, attest.NewToken("workload:web-0"))
			judge(t, path, got, err, unavailableWant)
			if took := time.Since(start); took != 0 || asked != 1 {
				t.Errorf("%s: asked %d times in %s, want once and no wait", path, asked, took)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	good := cluster().start(t).Config
	for name, change := range map[string]func(*Config){
		"no trust domain":         func(c *Config) { c.TrustDomain = spiffeid.TrustDomain{} },
		"no client":               func(c *Config) { c.Client = nil },
		"one audience":            func(c *Config) { c.AgentAudience = c.WorkloadAudience },
		"a bad namespace":         func(c *Config) { c.Agents = []AgentAccount{{"A", "b", "c"}} },
		"a bad account":           func(c *Config) { c.Agents = []AgentAccount{{"a", "B", "c"}} },
		"no account":              func(c *Config) { c.Agents = []AgentAccount{{"a", "", "c"}} },
		"a bad DaemonSet":         func(c *Config) { c.Agents = []AgentAccount{{"a", "b", "C"}} },
		"no DaemonSet":            func(c *Config) { c.Agents = []AgentAccount{{"a", "b", ""}} },
		"a bad service":           func(c *Config) { c.Services = []ServiceAccount{{"a", "b", "C"}} },
		"no service":              func(c *Config) { c.Services = []ServiceAccount{{"a", "b", ""}} },
		"a service like an agent": func(c *Config) { c.Services = []ServiceAccount{{"a", "b", "node"}} },
		"one account twice":       func(c *Config) { c.Agents = append(c.Agents, c.Agents[0]) },
		"one account for two":     func(c *Config) { c.Services = []ServiceAccount{{system, "nodeagent", "manager"}} },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
