// Package v1alpha1 has the Go types of our own Kubernetes kinds, for programs
// that write them.
//
// An [AccessRole] is a set of permissions. An [AccessGrant] gives it to service
// identities and end users, where it selects workloads. An [AccessRule] is one
// rule that has what no AuthorizationPolicy can say. What they mean is said in
// rbac/access, which reads them more strictly than these types can.
//
// The definitions in deploy/chart/crds are generated from this package.
//
// +groupName=istio-auth.io
// +kubebuilder:object:generate=true
package v1alpha1

//go:generate go tool -modfile=../../tools/controllergen/go.mod controller-gen object:headerFile=header.txt crd:generateEmbeddedObjectMeta=false paths=. output:object:dir=. output:crd:dir=../../deploy/chart/crds
