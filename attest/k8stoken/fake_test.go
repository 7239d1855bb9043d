package k8stoken

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/istio-auth/istio-auth/attest"
)

const (
	system = "istio-auth"
	jti    = "JTI=6d9fbd3c-3e0c-4d24-8d8a-3a3dd0ad1a22"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("mesh.example")
	now    = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	node1  = attest.Node{Name: "node-1", UID: "node-1-uid"}
	node2  = attest.Node{Name: "node-2", UID: "node-2-uid"}
)

// apiserver answers over HTTP as a kube-apiserver does, or as a hostile one.
type apiserver struct {
	mu     sync.Mutex // guards what follows
	pods   map[string]*corev1.Pod
	nodes  map[string]*corev1.Node
	tokens map[string]authv1.TokenReviewStatus // by token; audiences are what the token has
	calls  []string

	// answer, where it is set, answers in place of what is above.
	answer func(w http.ResponseWriter, req *http.Request) (done bool)
}

func newAPIServer() *apiserver {
	a := &apiserver{pods: map[string]*corev1.Pod{}, nodes: map[string]*corev1.Node{}, tokens: map[string]authv1.TokenReviewStatus{}}
	for _, n := range []attest.Node{node1, node2} {
		a.nodes[n.Name] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: types.UID(n.UID)}}
	}
	return a
}

// addPod adds a running pod on the node, and two tokens of it: agent:<name> and
// workload:<name>, each good for that audience.
func (a *apiserver) addPod(pod attest.Pod, node attest.Node) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID)},
		Spec:       corev1.PodSpec{NodeName: node.Name, ServiceAccountName: pod.ServiceAccount},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	a.pods[pod.Namespace+"/"+pod.Name] = p
	a.tokens["agent:"+pod.Name] = status(pod, node, AgentAudience(domain))
	a.tokens["workload:"+pod.Name] = status(pod, node, WorkloadAudience(domain))
	return p
}

// addAgent adds the pod of a node's agent.
func (a *apiserver) addAgent(name string, node attest.Node) *corev1.Pod {
	p := a.addPod(attest.Pod{Namespace: system, Name: name, UID: name + "-uid", ServiceAccount: "nodeagent"}, node)
	yes := true
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "nodeagent", Controller: &yes}}
	return p
}

// status is the answer about a good token.
func status(pod attest.Pod, node attest.Node, audience string) authv1.TokenReviewStatus {
	return authv1.TokenReviewStatus{Authenticated: true, Audiences: []string{audience}, User: authv1.UserInfo{
		Username: "system:serviceaccount:" + pod.Namespace + ":" + pod.ServiceAccount,
		UID:      "account-uid",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + pod.Namespace, "system:authenticated"},
		Extra: map[string]authv1.ExtraValue{
			extraPodName: {pod.Name}, extraPodUID: {pod.UID}, extraNodeName: {node.Name}, extraNodeUID: {node.UID}, extraCredentialID: {jti},
		},
	}}
}

func (a *apiserver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, req.Method+" "+req.URL.Path)
	if a.answer != nil && a.answer(w, req) {
		return
	}
	path := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	switch {
	case req.Method == "POST" && req.URL.Path == "/apis/authentication.k8s.io/v1/tokenreviews":
		var review authv1.TokenReview
		if err := json.NewDecoder(io.LimitReader(req.Body, 1<<20)).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.TypeMeta = metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}
		review.Status = a.review(review.Spec)
		writeJSON(w, http.StatusCreated, review)
	case req.Method == "GET" && len(path) == 6 && path[2] == "namespaces" && path[4] == "pods":
		if p := a.pods[path[3]+"/"+path[5]]; p != nil {
			p := p.DeepCopy()
			p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
			writeJSON(w, http.StatusOK, p)
			return
		}
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound)
	case req.Method == "GET" && len(path) == 4 && path[2] == "nodes":
		if n := a.nodes[path[3]]; n != nil {
			n := n.DeepCopy()
			n.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
			writeJSON(w, http.StatusOK, n)
			return
		}
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound)
	default:
		writeStatus(w, http.StatusForbidden, metav1.StatusReasonForbidden)
	}
}

// review answers as the real one does: the audiences are those both asked and
// held, and without any the token is not good.
func (a *apiserver) review(spec authv1.TokenReviewSpec) authv1.TokenReviewStatus {
	s, ok := a.tokens[spec.Token]
	if !ok {
		return authv1.TokenReviewStatus{Error: "invalid bearer token"}
	}
	var both []string
	for _, held := range s.Audiences {
		for _, asked := range spec.Audiences {
			if held == asked {
				both = append(both, held)
			}
		}
	}
	if both == nil {
		return authv1.TokenReviewStatus{Error: "token audiences are invalid for the target audiences"}
	}
	s.Audiences = both
	return s
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

func writeStatus(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	writeJSON(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "fake",
	})
}

// start serves the fake and returns a Reviewer of it.
func (a *apiserver) start(t testing.TB) *Reviewer {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	return newReviewer(t, &rest.Config{Host: server.URL})
}

func newReviewer(t testing.TB, c *rest.Config) *Reviewer {
	t.Helper()
	c.ContentType = "application/json" // the fake reads no protobuf
	client, err := kubernetes.NewForConfig(ClientConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{
		TrustDomain: domain, Client: client, Now: func() time.Time { return now },
		Agents:   []AgentAccount{{Namespace: system, ServiceAccount: "nodeagent", DaemonSet: "nodeagent"}},
		Services: []ServiceAccount{{Namespace: system, ServiceAccount: "manager", Name: "manager"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func agentOf(t testing.TB, node attest.Node) attest.Identity {
	t.Helper()
	agent, err := attest.NewAgent(domain, node)
	if err != nil {
		t.Fatal(err)
	}
	return agent
}

// inProcess is a transport without a network, for tests in a bubble: it serves
// from the fake; on one path it fails, or without an error never answers.
type inProcess struct {
	api    *apiserver
	silent string // "" means no path
	err    error
}

func (i inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	if i.silent != "" && strings.HasSuffix(req.URL.Path, i.silent) {
		if i.err != nil {
			return nil, i.err
		}
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	w := httptest.NewRecorder()
	i.api.ServeHTTP(w, req)
	return w.Result(), nil
}
