package keypolicy

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"math/big"
	"sync"

	"filippo.io/edwards25519"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidECDSA   = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}     // RFC 5480
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}             // RFC 8410
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1} // RFC 8017
	oidP256    = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}  // RFC 5480
	oidP384    = asn1.ObjectIdentifier{1, 3, 132, 0, 34}           // RFC 5480
	opened     = cbasn1.SEQUENCE                                   // SubjectPublicKeyInfo, AlgorithmIdentifier
)

// checkAlgorithm reads no further than the names of algorithm and curve, and
// the length of an RSA key, so that a parser of keys meets only what is allowed.
func checkAlgorithm(spki []byte) error {
	var info, algorithm, bits cryptobyte.String
	var oid asn1.ObjectIdentifier
	input := cryptobyte.String(spki)
	if !input.ReadASN1(&info, opened) || !input.Empty() ||
		!info.ReadASN1(&algorithm, opened) || !algorithm.ReadASN1ObjectIdentifier(&oid) ||
		!info.ReadASN1(&bits, cbasn1.BIT_STRING) || !info.Empty() {
		return refuse(ReasonEncoding, "not a SubjectPublicKeyInfo in DER")
	}
	switch {
	case oid.Equal(oidECDSA):
		return checkCurve(algorithm, bits)
	case oid.Equal(oidEd25519), oid.Equal(oidRSA):
		return nil
	default:
		return refuse(ReasonAlgorithm, "algorithm %v", oid)
	}
}

func checkCurve(parameters, bits cryptobyte.String) error {
	var name asn1.ObjectIdentifier
	if !parameters.ReadASN1ObjectIdentifier(&name) {
		// Explicit parameters let the sender choose the generator (CVE-2020-0601).
		return refuse(ReasonCurve, "a curve that is not named")
	}
	if !parameters.Empty() {
		return refuse(ReasonEncoding, "more than a curve's name")
	}
	curve := elliptic.P256()
	switch {
	case name.Equal(oidP256):
	case name.Equal(oidP384):
		curve = elliptic.P384()
	default:
		return refuse(ReasonCurve, "curve %v", name)
	}
	// Unused bits, form of the point (4: uncompressed), two coordinates.
	size := (curve.Params().BitSize + 7) / 8
	if len(bits) != 2+2*size || bits[0] != 0 || bits[1] != 4 {
		return refuse(ReasonPoint, "not an uncompressed point of %s", curve.Params().Name)
	}
	if _, err := ecdsa.ParseUncompressedPublicKey(curve, bits[1:]); err != nil {
		return refuse(ReasonPoint, "%w", err)
	}
	return nil
}

func checkECDSA(pub *ecdsa.PublicKey) (Kind, error) {
	switch pub.Curve {
	case elliptic.P256():
		return P256, nil
	case elliptic.P384():
		return P384, nil
	default:
		return 0, refuse(ReasonCurve, "curve %s", pub.Curve.Params().Name)
	}
}

// checkEd25519 refuses what is no point, what is not the only encoding of its
// point, and points of small order: under those, one signature fits many messages.
func checkEd25519(pub ed25519.PublicKey) error {
	point, err := new(edwards25519.Point).SetBytes(pub)
	if err != nil {
		return refuse(ReasonPoint, "%w", err)
	}
	if string(point.Bytes()) != string(pub) {
		return refuse(ReasonPoint, "not the canonical encoding of the point")
	}
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return refuse(ReasonPoint, "a point of small order")
	}
	return nil
}

func checkRSA(pub *rsa.PublicKey) error {
	if size := pub.N.BitLen(); size < MinRSA || size > MaxRSA {
		return refuse(ReasonRSASize, "a modulus of %d bits, want %d to %d", size, MinRSA, MaxRSA)
	}
	if pub.E != RSAExponent {
		return refuse(ReasonExponent, "exponent %d, want %d", pub.E, RSAExponent)
	}
	switch {
	case hasSmallFactor(pub.N):
		return refuse(ReasonWeak, "the modulus has a factor below %d", smallFactor)
	case hasCloseFactors(pub.N):
		return refuse(ReasonWeak, "the factors of the modulus are close together")
	case looksLikeROCA(pub.N):
		return refuse(ReasonWeak, "the modulus has the mark of CVE-2017-15361")
	}
	return nil
}

// smallFactor bounds the trial division.
const smallFactor = 752

var primes = sync.OnceValue(func() []int64 {
	var found []int64
	for n := int64(2); n < smallFactor; n++ {
		if big.NewInt(n).ProbablyPrime(0) { // exact below 2^64
			found = append(found, n)
		}
	}
	return found
})

var primorial = sync.OnceValue(func() *big.Int {
	product := big.NewInt(1)
	for _, p := range primes() {
		product.Mul(product, big.NewInt(p))
	}
	return product
})

// hasSmallFactor divides by the product of the small primes once, and by each of
// them only what remains.
func hasSmallFactor(n *big.Int) bool {
	rest := new(big.Int).Mod(n, primorial())
	return new(big.Int).GCD(nil, nil, rest, primorial()).Cmp(big.NewInt(1)) != 0
}

// fermatRounds finds the factors of n where they differ by less than about
// n^1/4 times this; a hundred caught every key of CVE-2022-26320.
const fermatRounds = 100

// hasCloseFactors runs Fermat's method: it looks for a with a²-n a square.
func hasCloseFactors(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	square := new(big.Int)
	if square.Mul(a, a).Cmp(n) == 0 {
		return true
	}
	rest := new(big.Int)
	root := new(big.Int)
	for range fermatRounds {
		a.Add(a, one)
		rest.Sub(square.Mul(a, a), n)
		if !maybeSquare(rest) {
			continue
		}
		root.Sqrt(rest)
		if square.Mul(root, root).Cmp(rest) == 0 {
			return true
		}
	}
	return false
}

var one = big.NewInt(1)

// maybeSquare is cheap and never wrong when it says no: a square is 0, 1, 4, 9,
// 16, 17, 25, 33, 36, 41, 49 or 57 modulo 64.
func maybeSquare(n *big.Int) bool {
	const residues uint64 = 1<<0 | 1<<1 | 1<<4 | 1<<9 | 1<<16 | 1<<17 | 1<<25 | 1<<33 | 1<<36 | 1<<41 | 1<<49 | 1<<57
	var low uint64
	if words := n.Bits(); len(words) > 0 {
		low = uint64(words[0]) & 63
	}
	return residues>>low&1 == 1
}

// rocaPrimes are those whose residues betray a modulus made by Infineon's
// library (Nemec et al., The Return of Coppersmith's Attack, 2017, section 2.2):
// its primes are powers of 65537 modulo each of them.
var rocaPrimes = []int64{
	11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157,
}

func looksLikeROCA(n *big.Int) bool {
	rest := new(big.Int)
	for _, p := range rocaPrimes {
		if !isPowerOf65537(rest.Mod(n, big.NewInt(p)).Int64(), p) {
			return false
		}
	}
	return true
}

func isPowerOf65537(residue, p int64) bool {
	power := int64(1)
	for range p {
		if power == residue {
			return true
		}
		power = power * 65537 % p
	}
	return false
}
