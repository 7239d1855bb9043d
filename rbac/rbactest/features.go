package rbactest

// Features are the parts of the language, and of requests, that a [Generator]
// makes use of. Zero is the plain ones: principals, namespaces, service accounts,
// methods and paths, in ALLOW and DENY, for HTTP over mutual TLS.
type Features uint

// One bit each.
const (
	Addresses    Features = 1 << iota // source.ip, remote.ip, destination.ip and destination.port
	ServerNames                       // connection.sni
	Hosts                             // request.host, and authorities of many forms
	Headers                           // request.headers: absent, repeated, joined by commas
	Tokens                            // request.auth.*, and requests with tokens
	TrustDomains                      // source.trustDomain, aliases, foreign domains
	AnyDomain                         // namespaces and service accounts of any accepted trust domain
	Plaintext                         // targets that listen to peers without certificates, and such peers
	Templates                         // paths with {*} and {**}
	Conditions                        // when
	Expressions                       // expressions without comparisons
	Comparisons                       // expressions that compare two attributes
	Audits                            // AUDIT policies
	Customs                           // CUSTOM policies, of providers that are known and one that is not
	DryRuns                           // policies that are not enforced
	Compat                            // policies that are read as Istio reads them
	HTTP2                             // requests over HTTP/2, which carries words that HTTP/1 does not
	Connections                       // connections that are looked at as TCP

	endOfFeatures

	Everything = endOfFeatures - 1
)

func (f Features) has(one Features) bool { return f&one != 0 }
