package cel

import (
	"slices"
	"strings"
	"sync"

	celgo "cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/stdlib"

	"github.com/istio-auth/istio-auth/rbac"
)

// A variable of the environment. Its kind is zero for the two maps.
type variable struct {
	name string
	kind rbac.AttributeKind
	of   *celgo.Type
}

// address is the type of an IP address: it can be asked for a network, and for
// nothing else.
var address = celgo.OpaqueType("address")

const (
	headers = "request.headers"
	claims  = "request.auth.claims"
)

var variables = []variable{
	{"source.principal", rbac.Principal, celgo.StringType},
	{"source.namespace", rbac.Namespace, celgo.StringType},
	{"source.serviceAccount", rbac.ServiceAccount, celgo.StringType},
	{"source.trustDomain", rbac.TrustDomain, celgo.StringType},
	{"source.ip", rbac.SourceIP, address},
	{"remote.ip", rbac.RemoteIP, address},
	{"destination.ip", rbac.DestinationIP, address},
	{"destination.port", rbac.DestinationPort, celgo.IntType},
	{"connection.sni", rbac.ServerName, celgo.StringType},
	{"request.method", rbac.Method, celgo.StringType},
	{"request.host", rbac.Host, celgo.StringType},
	{"request.path", rbac.Path, celgo.StringType},
	{headers, 0, celgo.MapType(celgo.StringType, celgo.StringType)},
	{"request.auth.audiences", rbac.Audience, celgo.ListType(celgo.StringType)},
	{"request.auth.presenter", rbac.Presenter, celgo.StringType},
	{claims, 0, celgo.MapType(celgo.StringType, celgo.DynType)},
}

// Variables lists the names that an expression may use. The headers and the
// claims are maps, of which it names one: request.headers["x"].
func Variables() []string {
	var names []string
	for _, v := range variables {
		names = append(names, v.name)
	}
	return names
}

// Words for what has no operator.
const (
	// has(attribute): the request has it, and it is not empty. CEL's own macro of
	// that name takes no index; ours calls a function that no text can name.
	hasMacro = "has"
	has      = "@has"
	// address.within("192.0.2.0/24")
	within = "within"
)

// standard are the functions of CEL that are taken, each with its overloads.
var standard = map[string][]string{
	operators.LogicalAnd: {overloads.LogicalAnd},
	operators.LogicalOr:  {overloads.LogicalOr},
	operators.LogicalNot: {overloads.LogicalNot},
	operators.Equals:     {overloads.Equals},
	operators.NotEquals:  {overloads.NotEquals},
	operators.In:         {overloads.InList},
	operators.Index:      {overloads.IndexMap},
	operators.Add:        {overloads.AddString},
	overloads.StartsWith: {overloads.StartsWithString},
	overloads.EndsWith:   {overloads.EndsWithString},
}

// environment is made once: what cel-go is to know, and nothing else. Neither
// the standard library nor its macros are in it.
var environment = sync.OnceValues(func() (*celgo.Env, error) {
	options := []celgo.EnvOption{
		celgo.ParserRecursionLimit(4 * MaxDepth),
		celgo.ParserErrorRecoveryLimit(1),
		celgo.ParserExpressionSizeLimit(MaxText),
		celgo.Macros(celgo.GlobalMacro(hasMacro, 1, func(f celgo.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *celgo.Error) {
			return f.NewCall(has, args[0]), nil
		})),
		celgo.Function(has,
			celgo.Overload("has_string", []*celgo.Type{celgo.StringType}, celgo.BoolType),
			celgo.Overload("has_list", []*celgo.Type{celgo.ListType(celgo.StringType)}, celgo.BoolType)),
		celgo.Function(within, celgo.MemberOverload("address_within", []*celgo.Type{address, celgo.StringType}, celgo.BoolType)),
	}
	for _, f := range stdlib.Functions() {
		taken, ok := standard[f.Name()]
		if !ok {
			continue
		}
		if f = f.Subset(celgo.IncludeOverloads(taken...)); f != nil {
			options = append(options, celgo.FunctionDecls(f))
		}
	}
	for _, v := range variables {
		options = append(options, celgo.Variable(v.name, v.of))
	}
	return celgo.NewCustomEnv(options...)
})

// screen refuses what the environment has not, with a better word for it than
// the checker's.
func screen(tree *ast.AST) *Refusal {
	info := tree.SourceInfo()
	var refusal *Refusal
	names := map[int64]bool{} // of parts of a name that was looked at
	ast.PreOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if refusal != nil || names[e.ID()] {
			return
		}
		switch e.Kind() {
		case ast.CallKind:
			refusal = screenCall(info, e)
		case ast.IdentKind, ast.SelectKind:
			refusal = screenName(info, e, names)
		case ast.LiteralKind, ast.ListKind:
		default:
			refusal = refuse(info, e, "not-supported", "maps, messages and loops are not taken")
		}
	}))
	return refusal
}

func screenCall(info *ast.SourceInfo, e ast.Expr) *Refusal {
	name := e.AsCall().FunctionName()
	if _, ok := standard[name]; ok || name == has || name == within {
		return nil
	}
	if sign, ok := operators.FindReverse(name); ok && sign != "" {
		return refuse(info, e, "not-supported", "the operator %s is not taken", sign)
	}
	if name == operators.Conditional {
		return refuse(info, e, "not-supported", "the operator ?: is not taken: use && and ||")
	}
	return refuse(info, e, "not-supported", "the function %.40s is not taken: there are startsWith, endsWith, within and has", name)
}

// screenName looks at a whole dotted name.
func screenName(info *ast.SourceInfo, e ast.Expr, seen map[int64]bool) *Refusal {
	var parts []string
	root := e
	for root.Kind() == ast.SelectKind {
		parts = append(parts, root.AsSelect().FieldName())
		root = root.AsSelect().Operand()
		seen[root.ID()] = true
	}
	if root.Kind() != ast.IdentKind {
		seen[root.ID()] = false // request.headers["x"].y: the checker's
		return nil
	}
	slices.Reverse(parts)
	name := strings.TrimPrefix(strings.Join(append([]string{root.AsIdent()}, parts...), "."), ".")
	known := slices.ContainsFunc(variables, func(v variable) bool {
		return name == v.name || v.kind == 0 && strings.HasPrefix(name, v.name+".")
	})
	if !known {
		return refuse(info, root, "unknown-attribute", "there is no attribute %.80s; there are %s", name, strings.Join(Variables(), ", "))
	}
	return nil
}
