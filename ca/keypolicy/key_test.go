package keypolicy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// A row of KEY-01 says what becomes of one key, and why. accepted means a Key.
type row struct {
	name   string
	spki   []byte
	reason string
}

const accepted = "accepted"

// KEY-01: every curve, point form, encoding, RSA size, exponent and known
// weakness that we could think of. It may grow.
func TestParse(t *testing.T) {
	var table []row
	table = append(table, pointRows()...)
	table = append(table, encodingRows()...)
	table = append(table, ed25519Rows()...)
	table = append(table, algorithmRows()...)
	table = append(table, rsaRows()...)
	table = append(table, sizeRows()...)
	if got, want := len(table), 292; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	seen := map[string]bool{}
	for _, r := range table {
		if seen[r.name] {
			t.Errorf("two rows are called %q", r.name)
		}
		seen[r.name] = true
		key, err := Parse(r.spki)
		if got := reasonOf(err); got != r.reason {
			t.Errorf("%s: %s (%v), want %s", r.name, got, err, r.reason)
		}
		if err != nil && !key.IsZero() {
			t.Errorf("%s: refused, and yet a key", r.name)
		}
		if err == nil && (!bytes.Equal(key.SPKI(), r.spki) || key.Public() == nil) {
			t.Errorf("%s: accepted as another key", r.name)
		}
	}
}

// KEY-02: no key costs more than a millisecond, be it accepted or not. The
// best of some runs is taken: what else the machine does is not the key's cost.
func TestParseIsCheap(t *testing.T) {
	for _, r := range append(rsaRows(), sizeRows()...) {
		best := time.Hour
		for range 20 {
			start := time.Now()
			Parse(r.spki)
			best = min(best, time.Since(start))
			if best < time.Millisecond {
				break
			}
		}
		if best >= time.Millisecond {
			t.Errorf("%s: %v", r.name, best)
		}
	}
}

func reasonOf(err error) string {
	if err == nil {
		return accepted
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Reason
	}
	return "not a refusal"
}

// spki builds a SubjectPublicKeyInfo; nil parameters are left out.
func spki(oid asn1.ObjectIdentifier, parameters, bits []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddBytes(parameters)
		})
		b.AddASN1BitString(bits)
	})
	return b.BytesOrPanic()
}

func oidDER(oid asn1.ObjectIdentifier) []byte {
	der, err := asn1.Marshal(oid)
	if err != nil {
		panic(err)
	}
	return der
}

var null = []byte{5, 0}

// curves of the table. secp256k1 has no implementation here: its point is made up.
var curves = []struct {
	name    string
	curve   elliptic.Curve
	oid     asn1.ObjectIdentifier
	allowed bool
}{
	{"P-224", elliptic.P224(), asn1.ObjectIdentifier{1, 3, 132, 0, 33}, false},
	{"P-256", elliptic.P256(), oidP256, true},
	{"P-384", elliptic.P384(), oidP384, true},
	{"P-521", elliptic.P521(), asn1.ObjectIdentifier{1, 3, 132, 0, 35}, false},
	{"secp256k1", elliptic.P256(), asn1.ObjectIdentifier{1, 3, 132, 0, 10}, false},
}

// generator is the base point of a curve: a key like any other.
func generator(c elliptic.Curve) (x, y []byte) {
	size := (c.Params().BitSize + 7) / 8
	return c.Params().Gx.FillBytes(make([]byte, size)), c.Params().Gy.FillBytes(make([]byte, size))
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func pointRows() (rows []row) {
	for _, c := range curves {
		x, y := generator(c.curve)
		size := len(x)
		p := c.curve.Params().P.FillBytes(make([]byte, size))
		off := bytes.Clone(y)
		off[size-1] ^= 1
		minusY := new(big.Int).Sub(c.curve.Params().P, c.curve.Params().Gy).FillBytes(make([]byte, size))
		zero := make([]byte, size)
		for _, point := range []struct {
			name string
			bits []byte
			ok   bool
		}{
			{"generator", join([]byte{4}, x, y), true},
			{"its negative", join([]byte{4}, x, minusY), true},
			{"compressed 2", join([]byte{2}, x), false},
			{"compressed 3", join([]byte{3}, x), false},
			{"hybrid 6", join([]byte{6}, x, y), false},
			{"hybrid 7", join([]byte{7}, x, y), false},
			{"off the curve", join([]byte{4}, x, off), false},
			{"swapped", join([]byte{4}, y, x), false},
			{"infinity", []byte{0}, false},
			{"zero", join([]byte{4}, zero, zero), false},
			{"x not reduced", join([]byte{4}, p, y), false},
			{"y not reduced", join([]byte{4}, x, p), false},
			{"a byte short", join([]byte{4}, x, y[:size-1]), false},
			{"a byte long", join([]byte{4}, x, y, []byte{0}), false},
			{"no form", join(x, y), false},
			{"empty", nil, false},
		} {
			reason := ReasonCurve
			if c.allowed {
				reason = ReasonPoint
				if point.ok {
					reason = accepted
				}
			}
			rows = append(rows, row{c.name + " " + point.name, spki(oidECDSA, oidDER(c.oid), point.bits), reason})
		}
	}
	return rows
}

func encodingRows() (rows []row) {
	x, y := generator(elliptic.P256())
	point := join([]byte{4}, x, y)
	good := spki(oidECDSA, oidDER(oidP256), point)
	add := func(name, reason string, der []byte) { rows = append(rows, row{"encoding: " + name, der, reason}) }

	explicit := must(hex.DecodeString("30820101020101302c06072a8648ce3d0101022100"))
	add("explicit parameters", ReasonCurve, spki(oidECDSA, []byte{0x30, 3, 2, 1, 1}, point))
	add("cut explicit parameters", ReasonEncoding, spki(oidECDSA, explicit, point)[:60])
	add("no parameters", ReasonCurve, spki(oidECDSA, nil, point))
	add("NULL parameters", ReasonCurve, spki(oidECDSA, null, point))
	add("two curves", ReasonEncoding, spki(oidECDSA, join(oidDER(oidP256), oidDER(oidP384)), point))
	add("curve and NULL", ReasonEncoding, spki(oidECDSA, join(oidDER(oidP256), null), point))
	add("P-384's point on P-256", ReasonPoint, spki(oidECDSA, oidDER(oidP256), make([]byte, 97)))
	add("P-256's point on P-384", ReasonPoint, spki(oidECDSA, oidDER(oidP384), point))
	add("trailing zero", ReasonEncoding, append(bytes.Clone(good), 0))
	add("trailing key", ReasonEncoding, join(good, good))
	add("indefinite length", ReasonEncoding, join([]byte{0x30, 0x80}, good[2:], []byte{0, 0}))
	add("long form of the length", ReasonEncoding, join([]byte{0x30, 0x81, good[1]}, good[2:]))
	add("longer form of the length", ReasonEncoding, join([]byte{0x30, 0x82, 0, good[1]}, good[2:]))
	add("length past the end", ReasonEncoding, join([]byte{0x30, good[1] + 1}, good[2:]))
	add("length of 4 GB", ReasonEncoding, join([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, good[2:]))
	add("a SET", ReasonEncoding, join([]byte{0x31}, good[1:]))
	add("an OCTET STRING as the key", ReasonEncoding, bytes.Replace(good, []byte{3, 66, 0, 4}, []byte{4, 66, 0, 4}, 1))
	add("unused bits", ReasonPoint, bytes.Replace(good, []byte{3, 66, 0, 4}, []byte{3, 66, 1, 4}, 1))
	add("constructed BIT STRING", ReasonEncoding, bytes.Replace(good, []byte{3, 66, 0, 4}, []byte{0x23, 66, 0, 4}, 1))
	add("a third element", ReasonEncoding, rewrap(good, null))
	add("PEM", ReasonEncoding, []byte("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"))
	add("a private key", ReasonEncoding, must(x509.MarshalPKCS8PrivateKey(must(ecdsa.GenerateKey(elliptic.P256(), nil)))))
	for n := 1; n < len(good); n++ {
		add(fmt.Sprintf("the first %d bytes", n), ReasonEncoding, good[:n])
	}
	return rows
}

// rewrap adds an element to a SEQUENCE.
func rewrap(der, more []byte) []byte {
	var body cryptobyte.String
	s := cryptobyte.String(der)
	s.ReadASN1(&body, cbasn1.SEQUENCE)
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(body); b.AddBytes(more) })
	return b.BytesOrPanic()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ed25519Rows() (rows []row) {
	good := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	add := func(name, reason string, parameters, bits []byte) {
		rows = append(rows, row{"Ed25519 " + name, spki(oidEd25519, parameters, bits), reason})
	}
	add("key", accepted, nil, good)
	add("with NULL", ReasonEncoding, null, good)
	add("a byte short", ReasonEncoding, nil, good[:31])
	add("a byte long", ReasonEncoding, nil, append(bytes.Clone(good), 0))
	add("empty", ReasonEncoding, nil, nil)
	add("no point", ReasonPoint, nil, append([]byte{2}, make([]byte, 31)...))
	// The eight points of small order, and other ways to write some of them.
	for _, low := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	} {
		add("small order "+low, ReasonPoint, nil, must(hex.DecodeString(low)))
	}
	return rows
}

func algorithmRows() (rows []row) {
	bits := make([]byte, 32)
	for name, oid := range map[string]asn1.ObjectIdentifier{
		"X25519":                {1, 3, 101, 110},
		"X448":                  {1, 3, 101, 111},
		"Ed448":                 {1, 3, 101, 113},
		"DSA":                   {1, 2, 840, 10040, 4, 1},
		"DH":                    {1, 2, 840, 113549, 1, 3, 1},
		"RSA-PSS":               {1, 2, 840, 113549, 1, 1, 10},
		"RSA-OAEP":              {1, 2, 840, 113549, 1, 1, 7},
		"ecDH":                  {1, 3, 132, 1, 12},
		"ecMQV":                 {1, 3, 132, 1, 13},
		"SM2":                   {1, 2, 156, 10197, 1, 301},
		"GOST":                  {1, 2, 643, 7, 1, 1, 1, 1},
		"ML-DSA-44":             {2, 16, 840, 1, 101, 3, 4, 3, 17},
		"ML-KEM-768":            {2, 16, 840, 1, 101, 3, 4, 4, 2},
		"ecdsa-with-SHA256":     {1, 2, 840, 10045, 4, 3, 2},
		"sha256WithRSA":         {1, 2, 840, 113549, 1, 1, 11},
		"a curve as algorithm":  oidP256,
		"one above Ed25519's":   {1, 3, 101, 112, 1},
		"the shortest OID":      {0, 0},
		"an unknown, large OID": {1, 3, 6, 1, 4, 1, 2147483647},
	} {
		rows = append(rows, row{"algorithm " + name, spki(oid, nil, bits), ReasonAlgorithm})
	}
	return rows
}

// modulus is an odd number of exactly so many bits, without a small factor: the
// policy does not ask for more. The same seed gives the same number.
func modulus(bits int) *big.Int {
	random := rand.NewChaCha8([32]byte{byte(bits), byte(bits >> 8)})
	raw := make([]byte, (bits+7)/8)
	for {
		random.Read(raw)
		n := new(big.Int).SetBytes(raw)
		n.SetBit(n.Rsh(n, uint(len(raw)*8-bits)), bits-1, 1)
		n.SetBit(n, 0, 1)
		if !hasSmallFactor(n) {
			return n
		}
	}
}

func rsaDER(n, e *big.Int) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1BigInt(n); b.AddASN1BigInt(e) })
	return b.BytesOrPanic()
}

func rsaRows() (rows []row) {
	e := big.NewInt(RSAExponent)
	good := modulus(2048)
	add := func(name, reason string, parameters, key []byte) {
		rows = append(rows, row{"RSA " + name, spki(oidRSA, parameters, key), reason})
	}
	for bits, reason := range map[int]string{
		512: ReasonRSASize, 768: ReasonRSASize, 1024: ReasonRSASize, 1536: ReasonRSASize, 2040: ReasonRSASize, 2047: ReasonRSASize,
		2048: accepted, 2049: accepted, 3072: accepted, 4095: accepted, 4096: accepted,
		4097: ReasonRSASize, 4104: ReasonRSASize, 8192: ReasonRSASize, 15360: ReasonRSASize, 16384: ReasonSize, 65536: ReasonSize,
	} {
		add(fmt.Sprintf("of %d bits", bits), reason, null, rsaDER(modulus(bits), e))
	}
	for _, exponent := range []int64{1, 2, 3, 5, 17, 257, 65535, 65536, 65539, 1<<31 - 1, 1 << 31, 1<<32 + 65537} {
		add(fmt.Sprintf("exponent %d", exponent), ReasonExponent, null, rsaDER(good, big.NewInt(exponent)))
	}
	for _, exponent := range []int64{0, -1, -65537} {
		add(fmt.Sprintf("exponent %d", exponent), ReasonEncoding, null, rsaDER(good, big.NewInt(exponent)))
	}
	add("exponent as long as the modulus", ReasonEncoding, null, rsaDER(good, modulus(2047)))
	add("without parameters", ReasonEncoding, nil, rsaDER(good, e))
	add("with parameters", ReasonEncoding, []byte{0x30, 0}, rsaDER(good, e))
	add("negative modulus", ReasonEncoding, null, rsaDER(new(big.Int).Neg(good), e))
	add("no modulus", ReasonEncoding, null, rsaDER(new(big.Int), e))
	add("padded modulus", ReasonEncoding, null, bytes.Replace(rsaDER(good, e), []byte{2, 0x82, 1, 1, 0}, []byte{2, 0x82, 1, 1, 0, 0}, 1))
	add("three numbers", ReasonEncoding, null, rewrap(rsaDER(good, e), []byte{2, 1, 1}))
	add("trailing byte", ReasonEncoding, null, append(rsaDER(good, e), 0))
	add("empty", ReasonEncoding, null, nil)
	add("even", ReasonWeak, null, rsaDER(new(big.Int).SetBit(good, 0, 0), e))
	add("a power of two", ReasonWeak, null, rsaDER(new(big.Int).Lsh(one, 2047), e))
	for _, p := range []int64{3, 5, 7, 11, 101, 743, 751} {
		n := new(big.Int).Mul(modulus(2049-big.NewInt(p).BitLen()), big.NewInt(p))
		add(fmt.Sprintf("divisible by %d", p), ReasonWeak, null, rsaDER(n, e))
	}
	half := modulus(1024)
	half.SetBit(half, 1022, 1) // so that a product has 2048 bits
	add("a square", ReasonWeak, null, rsaDER(new(big.Int).Mul(half, half), e))
	for _, apart := range []int64{1000, 1 << 20, 1 << 40} {
		add(fmt.Sprintf("factors %d apart", apart), ReasonWeak, null, rsaDER(new(big.Int).Mul(half, above(half, apart)), e))
	}
	add("of CVE-2017-15361", ReasonWeak, null, rsaDER(new(big.Int).Mul(infineon(1), infineon(2)), e))
	return rows
}

// above is the next number without a small factor.
func above(n *big.Int, apart int64) *big.Int {
	next := new(big.Int).Add(n, big.NewInt(apart))
	for next.SetBit(next, 0, 1); hasSmallFactor(next); {
		next.Add(next, big.NewInt(2))
	}
	return next
}

// infineon makes a factor as that library did: k*M + 65537^a mod M.
func infineon(seed int64) *big.Int {
	m := big.NewInt(1)
	for _, p := range primes() {
		if p <= 167 {
			m.Mul(m, big.NewInt(p))
		}
	}
	power := new(big.Int).Exp(big.NewInt(65537), big.NewInt(12345+seed), m)
	k := new(big.Int).Lsh(big.NewInt(7), 1021) // in the upper part of 1024 bits, so that a product has 2048
	for k.Add(k.Div(k, m), big.NewInt(1000*seed)); ; k.Add(k, one) {
		p := new(big.Int).Mul(k, m)
		if p.Add(p, power); !hasSmallFactor(p) {
			return p
		}
	}
}

func sizeRows() (rows []row) {
	for _, n := range []int{0, MaxSPKI + 1, 16 << 10, 1 << 20} {
		rows = append(rows, row{fmt.Sprintf("%d zeros", n), make([]byte, n), ReasonSize})
	}
	rows = append(rows, row{"the most zeros that are looked at", make([]byte, MaxSPKI), ReasonEncoding})
	big := spki(oidRSA, null, rsaDER(modulus(4096), big.NewInt(RSAExponent)))
	return append(rows, row{"a good key, and 2 KiB behind it", append(big, make([]byte, MaxSPKI)...), ReasonSize})
}

// TestKinds: a key of each kind that a program makes comes back as it was.
func TestKinds(t *testing.T) {
	for kind, key := range map[Kind]crypto.Signer{
		P256:    must(ecdsa.GenerateKey(elliptic.P256(), nil)),
		P384:    must(ecdsa.GenerateKey(elliptic.P384(), nil)),
		Ed25519: ed25519.NewKeyFromSeed(make([]byte, 32)),
		RSA:     must(rsa.GenerateKey(nil, 2048)),
	} {
		got, err := Of(key.Public())
		if err != nil || got.Kind() != kind {
			t.Errorf("%v: %v, %v", kind, got.Kind(), err)
		}
		again, err := Parse(got.SPKI())
		if err != nil || !again.Equal(got) || again.Digest() != got.Digest() {
			t.Errorf("%v: parsed again it is another key: %v", kind, err)
		}
		got.SPKI()[5] ^= 1
		if !again.Equal(got) {
			t.Errorf("%v: a caller can edit it", kind)
		}
	}
	if _, err := Of("no key"); reasonOf(err) != ReasonAlgorithm {
		t.Errorf("a string as a key: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, r := range append(append(ed25519Rows(), rsaRows()...), pointRows()...) {
		if len(r.spki) <= MaxSPKI {
			f.Add(r.spki)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := Parse(data)
		if err != nil {
			if reasonOf(err) == "not a refusal" {
				t.Errorf("%v is not a refusal", err)
			}
			return
		}
		if !bytes.Equal(key.SPKI(), data) {
			t.Error("accepted as another key")
		}
		if again, err := Of(key.Public()); err != nil || !again.Equal(key) {
			t.Errorf("the key itself is %v, %v", again, err)
		}
	})
}
