package analyze

// A Code names a kind of finding. Codes are stable.
type Code string

const (
	// ForeignTrustDomain: a principal or trust domain that no accepted trust
	// domain has.
	ForeignTrustDomain Code = "foreign-trust-domain"
	// AnyTrustDomain: an ALLOW rule whose principals begin with a star, or whose
	// trustDomains is one, lets in accounts of foreign trust domains too.
	AnyTrustDomain Code = "any-trust-domain"
	// NeverMatches: what a rule asks for contradicts itself, or is that something
	// be absent, which lets nobody in.
	NeverMatches Code = "never-matches"
	// DeniesEverything: a DENY rule that is true of every request, or of every
	// connection to a port.
	DeniesEverything Code = "denies-everything"
	// HTTPOnTCP: a rule asks for what a connection to a TCP port does not tell.
	HTTPOnTCP Code = "http-on-tcp"
	// DenyByPathAlone: a DENY by path without an ALLOW policy around it.
	DenyByPathAlone Code = "deny-by-path-alone"
	// CompatIstio: negations and namespaces are read as Istio reads them.
	CompatIstio Code = "compat-istio"
	// DryRun: the policy is not in force.
	DryRun Code = "dry-run"
	// TargetsIgnored: the object is for gateways or waypoints, and for no sidecar.
	TargetsIgnored Code = "targets-ignored"
	// UnknownProvider: a CUSTOM policy asks somebody whom nobody knows.
	UnknownProvider Code = "unknown-provider"
	// NeedsProvider: an expression compares two attributes, which no filter can.
	NeedsProvider Code = "needs-provider"
	// HostWithPort: an expression compares a host with a text that has a port.
	HostWithPort Code = "host-with-port"
	// NoAuthentication: a rule asks for an end user's token where none is verified.
	NoAuthentication Code = "request-principal-without-authentication"
	// UnknownIssuer: a request principal of an issuer whose tokens nobody takes.
	UnknownIssuer Code = "unknown-issuer"
	// ClaimNotText: a claim is compared with what reads like a number or a
	// boolean, and only texts are compared.
	ClaimNotText Code = "claim-not-text"
	// IssuerWithoutKeys: every token of the issuer is rejected.
	IssuerWithoutKeys Code = "issuer-without-keys"
	// SelectorMatchesNothing: no workload that there is has these labels.
	SelectorMatchesNothing Code = "selector-matches-nothing"
	// MeshWide: the object applies to every workload of the mesh.
	MeshWide Code = "mesh-wide"
	// SelectorInRoot: a PeerAuthentication of the root namespace with a selector
	// says nothing.
	SelectorInRoot Code = "selector-in-root"
	// Shadowed: an older PeerAuthentication of the same scope is in force.
	Shadowed Code = "shadowed"
)

// Codes lists all of them.
func Codes() []Code {
	return []Code{
		ForeignTrustDomain, AnyTrustDomain, NeverMatches, DeniesEverything, HTTPOnTCP, DenyByPathAlone, CompatIstio,
		DryRun, TargetsIgnored, UnknownProvider, NeedsProvider, HostWithPort, NoAuthentication, UnknownIssuer,
		ClaimNotText, IssuerWithoutKeys, SelectorMatchesNothing, MeshWide, SelectorInRoot, Shadowed,
	}
}
