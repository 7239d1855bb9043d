// Package check tells what a cluster lacks before Istio-Auth is installed, and
// who would be cut off when it is removed. It only reads.
package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/kubernetes"
)

// Driver is the name of our CSI driver.
const Driver = "csi.istio-auth.io"

// oldest is the first Kubernetes that keeps a node from asking for tokens of
// audiences that its pods do not mount (ServiceAccountNodeAudienceRestriction
// on by default); see SECURITY.md.
var oldest = version.MustParseGeneric("1.33.0")

// noswapKernel is the first Linux whose tmpfs takes the option noswap.
var noswapKernel = version.MustParseGeneric("6.4.0")

// A Finding is the outcome of one check.
type Finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	// Fix says what to do, where the check did not pass.
	Fix string `json:"fix,omitempty"`
}

// A Definition reads a CustomResourceDefinition, as JSON. Of one that is not
// there it returns an error for which apierrors.IsNotFound is true.
type Definition func(ctx context.Context, name string) ([]byte, error)

// Before runs the checks that precede an installation. The error tells that
// one could not be made; a check that did not pass is a Finding.
func Before(ctx context.Context, client kubernetes.Interface, definition Definition) ([]Finding, error) {
	checks := []func(context.Context, kubernetes.Interface) ([]Finding, error){checkVersion, checkRights, checkDriver, checkNodes}
	var findings []Finding
	for _, check := range checks {
		found, err := check(ctx, client)
		if err != nil {
			return findings, err
		}
		findings = append(findings, found...)
	}
	found, err := checkDefinitions(ctx, client, definition)
	if err != nil {
		return findings, err
	}
	return append(findings, found), nil
}

// definitions are the kinds that the manager reads, and in which version.
var definitions = []struct{ name, version string }{
	{"authorizationpolicies.security.istio.io", "v1"},
	{"requestauthentications.security.istio.io", "v1"},
	{"peerauthentications.security.istio.io", "v1"},
	{"accessroles.istio-auth.io", "v1alpha1"},
	{"accessgrants.istio-auth.io", "v1alpha1"},
	{"accessrules.istio-auth.io", "v1alpha1"},
}

// checkDefinitions looks for definitions that are not ours: Helm leaves those
// that are there as they are, and brings none with an upgrade. Where the API
// server drops the fields that it does not know, a typo never reaches us, and a
// rule with "form:" in place of "from:" is one for everybody.
func checkDefinitions(ctx context.Context, client kubernetes.Interface, definition Definition) (Finding, error) {
	f := Finding{Check: "policies", OK: true, Detail: "the chart brings the definitions of policies"}
	upgrade := false
	driver, err := client.StorageV1().CSIDrivers().Get(ctx, Driver, metav1.GetOptions{})
	switch {
	case err == nil:
		upgrade = byHelm(driver.Labels)
	case !apierrors.IsNotFound(err):
		return f, fmt.Errorf("looking for the CSI driver: %w", err)
	}
	var wrong []string
	for _, d := range definitions {
		data, err := definition(ctx, d.name)
		switch {
		case apierrors.IsNotFound(err) && upgrade:
			wrong = append(wrong, d.name+" is not there, and no upgrade brings it")
			continue
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return f, fmt.Errorf("reading the definition of %s: %w", d.name, err)
		}
		f.Detail = "the definitions of policies keep what they do not know, so that we refuse it"
		problem, err := wrongWith(data, d.version)
		if err != nil {
			return f, fmt.Errorf("reading the definition of %s: %w", d.name, err)
		}
		if problem != "" {
			wrong = append(wrong, "the definition of "+d.name+" that is there "+problem)
		}
	}
	if len(wrong) > 0 {
		f.OK, f.Detail = false, strings.Join(wrong, "; ")
		f.Fix = "kubectl apply --server-side --force-conflicts -f deploy/chart/crds (what is Istio's is its own, but for that)"
	}
	return f, nil
}

// wrongWith says what is wrong with a definition, as JSON; empty is nothing.
func wrongWith(data []byte, version string) (string, error) {
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string `json:"name"`
				Served bool   `json:"served"`
				Schema struct {
					OpenAPI struct {
						Properties map[string]struct {
							Preserve bool `json:"x-kubernetes-preserve-unknown-fields"`
						} `json:"properties"`
					} `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(data, &crd); err != nil {
		return "", err
	}
	served := false
	var pruning []string
	for _, v := range crd.Spec.Versions {
		served = served || v.Served && v.Name == version
		if v.Served && !v.Schema.OpenAPI.Properties["spec"].Preserve {
			pruning = append(pruning, v.Name)
		}
	}
	switch {
	case !served:
		return "is not served as " + version, nil
	case len(pruning) > 0:
		return "drops unknown fields (of " + strings.Join(pruning, ", ") + "): a typo in a policy would widen it in silence", nil
	}
	return "", nil
}

func checkVersion(_ context.Context, client kubernetes.Interface) ([]Finding, error) {
	info, err := client.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("asking the API server for its version: %w", err)
	}
	f := Finding{Check: "version", Detail: "Kubernetes " + info.GitVersion}
	v, err := version.ParseGeneric(info.GitVersion)
	switch {
	case err != nil:
		f.Detail, f.Fix = fmt.Sprintf("the version %q is not understood", info.GitVersion), "use a released Kubernetes, 1.33 or newer"
	case v.LessThan(oldest):
		f.Fix = "upgrade to Kubernetes 1.33 or newer: before it a node may ask for tokens of audiences that its pods do not mount"
	default:
		f.OK = true
	}
	return []Finding{f}, nil
}

// needed are the rights with which `helm install` creates the chart's objects.
var needed = []authorizationv1.ResourceAttributes{
	{Verb: "create", Resource: "namespaces"},
	{Verb: "create", Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
	{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
	{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
	{Verb: "create", Group: "storage.k8s.io", Resource: "csidrivers"},
	{Verb: "create", Group: "apps", Resource: "deployments"},
	{Verb: "create", Group: "apps", Resource: "daemonsets"},
	{Verb: "create", Resource: "configmaps"},
	{Verb: "create", Resource: "serviceaccounts"},
	{Verb: "create", Resource: "services"},
}

func checkRights(ctx context.Context, client kubernetes.Interface) ([]Finding, error) {
	var lacking []string
	for _, attributes := range needed {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes}}
		got, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("asking for our rights: %w", err)
		}
		if !got.Status.Allowed {
			lacking = append(lacking, attributes.Verb+" "+attributes.Resource)
		}
	}
	f := Finding{Check: "rights", OK: len(lacking) == 0, Detail: "you may create everything that the chart has"}
	if !f.OK {
		f.Detail, f.Fix = "you may not: "+strings.Join(lacking, ", "), "install as a cluster administrator"
	}
	return []Finding{f}, nil
}

func checkDriver(ctx context.Context, client kubernetes.Interface) ([]Finding, error) {
	f := Finding{Check: "driver", OK: true, Detail: "the name " + Driver + " is free"}
	driver, err := client.StorageV1().CSIDrivers().Get(ctx, Driver, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return nil, fmt.Errorf("looking for the CSI driver: %w", err)
	case byHelm(driver.Labels):
		f.Detail = Driver + " is installed by Helm (an upgrade)"
	default:
		f.OK, f.Detail, f.Fix = false, Driver+" exists and is not Helm's", "kubectl delete csidriver "+Driver
	}
	return []Finding{f}, nil
}

func byHelm(labels map[string]string) bool { return labels["app.kubernetes.io/managed-by"] == "Helm" }

func checkNodes(ctx context.Context, client kubernetes.Interface) ([]Finding, error) {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1000})
	if err != nil {
		return nil, fmt.Errorf("listing the nodes: %w", err)
	}
	var wrongSystem, maySwap []string
	for _, node := range nodes.Items {
		info := node.Status.NodeInfo
		if info.OperatingSystem != "" && info.OperatingSystem != "linux" {
			wrongSystem = append(wrongSystem, node.Name)
			continue
		}
		if swaps(info) && !takesNoswap(info.KernelVersion) {
			maySwap = append(maySwap, node.Name)
		}
	}
	system := Finding{Check: "nodes", OK: len(wrongSystem) < len(nodes.Items), Detail: fmt.Sprintf("%d nodes, %d of them not Linux", len(nodes.Items), len(wrongSystem))}
	if !system.OK {
		system.Fix = "the agent runs on Linux nodes: add one"
	}
	swap := Finding{Check: "swap", OK: len(maySwap) == 0, Detail: "the agents' memory cannot reach a disk"}
	if !swap.OK {
		swap.Detail = "swap is on, and the kernel is older than 6.4, on: " + strings.Join(maySwap, ", ")
		swap.Fix = "turn swap off on these nodes, or upgrade their kernel: the agent refuses to keep tokens on a tmpfs that can swap"
	}
	return []Finding{system, swap}, nil
}

func swaps(info corev1.NodeSystemInfo) bool {
	return info.Swap != nil && info.Swap.Capacity != nil && *info.Swap.Capacity > 0
}

func takesNoswap(kernel string) bool {
	release, _, _ := strings.Cut(kernel, "-")
	v, err := version.ParseGeneric(release)
	return err == nil && !v.LessThan(noswapKernel)
}

// ErrInUse reports that pods still mount our volume.
var ErrInUse = errors.New("pods still mount a volume of " + Driver)

// Users are the pods, as namespace/name, that mount a volume of our driver and
// have not ended. Removing the agent would cut each of them off.
func Users(ctx context.Context, client kubernetes.Interface) ([]string, error) {
	var users []string
	options := metav1.ListOptions{Limit: 500}
	for {
		pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("listing the pods: %w", err)
		}
		for _, pod := range pods.Items {
			if mountsDriver(pod) && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
				users = append(users, pod.Namespace+"/"+pod.Name)
			}
		}
		if options.Continue = pods.Continue; options.Continue == "" {
			return users, nil
		}
	}
}

func mountsDriver(pod corev1.Pod) bool {
	for _, volume := range pod.Spec.Volumes {
		if volume.CSI != nil && volume.CSI.Driver == Driver {
			return true
		}
	}
	return false
}
