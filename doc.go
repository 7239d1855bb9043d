// Package istioauth is the map of the tree; it has no code of its own.
//
// Evidence becomes an identity, an identity a certificate, a certificate a
// secret in Envoy; policy becomes a filter beside it. The packages follow that
// line:
//
//	attest      evidence -> Identity, or a refusal
//	ca          Identity + public key -> certificate, journalled
//	nodeagent   keeps the certificates of the workloads of one node fresh
//	sds         serves them, and the filters, to Envoy
//	rbac        what policies mean (eval) and their form in Envoy (compile)
//	mesh        the configuration of a sidecar Envoy
//	manager     collects policies and sends each node what selects its workloads
//	mtls        every TLS configuration between our own parts
//	cmd         joins the above into programs
//	deploy      chart and images
//	test        starts the real thing: Envoy, Kubernetes, a node
//
// Imports run one way, from cmd over adapters and cores to rules; TestImports
// holds the law, TestShape the budgets, TestLinks every relative link of the
// documents. docs/design/boundaries.md has the signatures where packages meet.
package istioauth
