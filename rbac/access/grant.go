package access

import (
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

func readGrant(d *parse.Document) (Grant, error) {
	g := Grant{Namespace: d.Namespace, Name: d.Name}
	m, err := d.Spec().Mapping("selector", "roleRef", "subjects", "endUsers", "expression")
	if err != nil {
		return Grant{}, err
	}
	if g.DryRun, err = check(d, true); err != nil {
		return Grant{}, err
	}
	if g.Selector, err = selector(m.At("selector")); err != nil {
		return Grant{}, err
	}
	if err := g.readRef(m.At("roleRef")); err != nil {
		return Grant{}, err
	}
	groups, err := readEndUsers(m.At("endUsers"))
	if err != nil {
		return Grant{}, err
	}
	items, err := m.At("subjects").Items(maxSubjects)
	if err != nil {
		return Grant{}, err
	}
	used := false
	for _, item := range items {
		s, err := item.Mapping("serviceAccounts", "principals", "namespaces", "requestPrincipals", "groups")
		if err != nil {
			return Grant{}, err
		}
		used = used || !s.At("groups").IsMissing()
		clause, err := readSubject(item, s, groups, d.Namespace)
		if err != nil {
			return Grant{}, err
		}
		g.From = append(g.From, clause)
	}
	if groups != nil && !used {
		return Grant{}, m.At("endUsers").Refuse("conflict", "it says where groups come from, and no subject has groups")
	}
	g.Expression, err = expression(m.At("expression"))
	return g, err
}

func (g *Grant) readRef(n parse.Node) error {
	m, err := n.Mapping("name", "namespace")
	if err != nil {
		return err
	}
	if g.RoleName, err = m.At("name").Text(); err != nil {
		return err
	}
	if !rbac.IsPolicyName(g.RoleName) || len(g.RoleName) > maxName {
		return m.At("name").Refuse("bad-name", "%.80q: want lower-case letters, digits, and inner hyphens and dots (RFC 1123)", g.RoleName)
	}
	g.RoleNamespace = g.Namespace
	if m.At("namespace").IsMissing() {
		return nil
	}
	if g.RoleNamespace, err = m.At("namespace").Text(); err != nil {
		return err
	}
	if !rbac.IsNamespace(g.RoleNamespace) {
		return m.At("namespace").Refuse("bad-name", "%.80q: want lower-case letters, digits, and inner hyphens (RFC 1123)", g.RoleNamespace)
	}
	return nil
}

// endUsers are where groups come from: a token of this issuer, by this claim.
type endUsers struct {
	issuer rbac.Test
	claim  rbac.Attribute
}

// readEndUsers is nil where the field is missing.
func readEndUsers(n parse.Node) (*endUsers, error) {
	if n.IsMissing() {
		return nil, nil
	}
	m, err := n.Mapping("issuer", "groupsClaim")
	if err != nil {
		return nil, err
	}
	issuer, err := m.At("issuer").Text()
	if err != nil {
		return nil, err
	}
	if strings.Contains(issuer, "*") {
		return nil, m.At("issuer").Refuse("bad-star", "%.80q: an issuer is written whole, without stars", issuer)
	}
	e := &endUsers{issuer: rbac.Test{Attribute: rbac.Attr(rbac.RequestPrincipal)}}
	p, err := rbac.ParseValue(e.issuer.Attribute, issuer+"/*", "")
	if err != nil {
		return nil, m.At("issuer").Place(err)
	}
	e.issuer.In = []rbac.Pattern{p}
	claim := DefaultGroupsClaim
	if !m.At("groupsClaim").IsMissing() {
		if claim, err = m.At("groupsClaim").Text(); err != nil {
			return nil, err
		}
	}
	e.claim, err = claimOf(claim)
	return e, m.At("groupsClaim").Place(err)
}

// claimOf reads "groups", or "[realm_access][roles]".
func claimOf(text string) (rbac.Attribute, error) {
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		return rbac.ClaimAttr(strings.Split(strings.TrimSuffix(inner, "]"), "][")...)
	}
	return rbac.ClaimAttr(text)
}

// readSubject makes a clause: each field is a test.
func readSubject(n parse.Node, m parse.Mapping, groups *endUsers, own string) (rbac.Clause, error) {
	services := 0
	var clause rbac.Clause
	for _, f := range []struct {
		name string
		kind rbac.AttributeKind
	}{
		{"principals", rbac.Principal}, {"requestPrincipals", rbac.RequestPrincipal}, {"namespaces", rbac.Namespace}, {"serviceAccounts", rbac.ServiceAccount},
	} {
		values := m.At(f.name)
		if values.IsMissing() {
			continue
		}
		test := rbac.Test{Attribute: rbac.Attr(f.kind)}
		var err error
		if test.In, err = values.Values(test.Attribute, own); err != nil {
			return nil, err
		}
		if test.Attribute.OfPeer() {
			services++
		}
		clause = append(clause, test)
	}
	if services > 1 {
		return nil, n.Refuse("conflict", "serviceAccounts, principals and namespaces stand in subjects of their own")
	}
	if values := m.At("groups"); !values.IsMissing() {
		switch {
		case groups == nil:
			return nil, values.Refuse("missing-field", "whose groups? endUsers.issuer says which tokens tell them")
		case !m.At("requestPrincipals").IsMissing():
			return nil, n.Refuse("conflict", "requestPrincipals and groups stand in subjects of their own")
		}
		names, err := values.Values(groups.claim, own)
		if err != nil {
			return nil, err
		}
		clause = append(clause, groups.issuer, rbac.Test{Attribute: groups.claim, In: names})
	}
	if len(clause) == 0 {
		return nil, n.Refuse("empty-value", "empty: it would be everybody")
	}
	return clause, nil
}
