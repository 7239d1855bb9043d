package keypolicy

// What the tests outside of the package share with those inside.
var (
	Modulus  = modulus
	RSADER   = rsaDER
	SPKI     = spki
	ReasonOf = reasonOf
	OIDRSA   = oidRSA
)

const Accepted = accepted
