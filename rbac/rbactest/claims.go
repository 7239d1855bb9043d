package rbactest

import (
	"slices"

	"github.com/istio-auth/istio-auth/rbac"
)

// Authentications are the rules for the tokens of generated calls, which keys
// verify: a JSON web key set.
func Authentications(keys string) []rbac.RequestAuthentication {
	a := rbac.RequestAuthentication{Namespace: Namespace, Name: "tokens"}
	for _, issuer := range issuers {
		a.Rules = append(a.Rules, rbac.TokenRule{Issuer: issuer, Keys: keys})
	}
	return []rbac.RequestAuthentication{a}
}

// claims are those of a token that is near to what the policies say. It has an
// issuer of [Authentications], always.
func (g *Generator) claims(near literals) map[string]any {
	claims := map[string]any{"iss": pick(g, issuers)}
	if g.chance(85) {
		claims["sub"] = pick(g, subjects)
	}
	if list := near.of[rbac.Attr(rbac.RequestPrincipal)]; len(list) > 0 && g.chance(50) {
		issuer, subject := pick(g, list).Halves()
		if text := g.complete(issuer, pick(g, issuers)); slices.Contains(issuers, text) {
			claims["iss"] = text
		}
		claims["sub"] = g.complete(subject, pick(g, subjects))
	}
	for _, a := range near.order {
		switch a.Kind() {
		case rbac.Audience:
			claims["aud"] = g.audience(near.of[a])
		case rbac.Presenter:
			claims["azp"] = g.claim(near.of[a], presenters)
		case rbac.Claim:
			if path := a.ClaimPath(); path[0] != "iss" && path[0] != "sub" && g.chance(85) {
				put(claims, path, g.claim(near.of[a], roles))
			}
		}
	}
	return claims
}

// claim is mostly a text or a list of texts, as one of the patterns wants it.
func (g *Generator) claim(patterns []rbac.Pattern, words []string) any {
	text := func() any {
		s := pick(g, words)
		if len(patterns) > 0 && g.chance(60) {
			s = g.complete(pick(g, patterns), pick(g, words))
		}
		if g.chance(10) {
			s = g.mutateText(s)
		}
		return s
	}
	switch g.r.IntN(16) {
	case 0:
		return float64(g.r.IntN(3))
	case 1:
		return g.chance(50)
	case 2:
		return map[string]any{"roles": text(), "name": text()}
	case 3:
		return []any{}
	case 4:
		return []any{float64(7), text(), nil, map[string]any{"x": text()}, true}
	case 5, 6, 7:
		return []any{text(), text()}
	case 8:
		return []any{text()}
	case 9:
		return ""
	case 10:
		return text().(string) + " " + text().(string)
	}
	return text()
}

// audience is a text or a list of texts: a token with another is rejected.
func (g *Generator) audience(patterns []rbac.Pattern) any {
	for {
		switch aud := g.claim(patterns, audiences).(type) {
		case string:
			return aud
		case []any:
			if !slices.ContainsFunc(aud, func(v any) bool { _, isText := v.(string); return !isText }) {
				return aud
			}
		}
	}
}

// put sets a claim beneath others, unless one of these is no object.
func put(claims map[string]any, path []string, value any) {
	for _, key := range path[:len(path)-1] {
		if claims[key] == nil {
			claims[key] = map[string]any{}
		}
		inner, ok := claims[key].(map[string]any)
		if !ok {
			return
		}
		claims = inner
	}
	claims[path[len(path)-1]] = value
}
