package compile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"
)

// testTokens signs the tokens of all tests.
var testTokens tokenSigner

// A tokenSigner has one key, of P-256, which it makes when it is first needed.
type tokenSigner struct {
	once sync.Once
	key  *ecdsa.PrivateKey
	err  error
}

func (s *tokenSigner) make() {
	s.once.Do(func() { s.key, s.err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	if s.err != nil {
		panic(s.err)
	}
}

// keys is the JSON web key set of the key.
func (s *tokenSigner) keys() string {
	s.make()
	point, err := s.key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"test","x":%q,"y":%q}]}`, base64url(point[1:33]), base64url(point[33:]))
}

// sign makes a token that is good for an hour.
func (s *tokenSigner) sign(claims map[string]any) string {
	s.make()
	claims = maps.Clone(claims)
	claims["exp"] = time.Now().Add(time.Hour).Unix()
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	text := base64url([]byte(`{"alg":"ES256","kid":"test","typ":"JWT"}`)) + "." + base64url(payload)
	digest := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, digest[:])
	if err != nil {
		panic(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	return text + "." + base64url(signature)
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
