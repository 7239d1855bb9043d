package rbac

import (
	"slices"
	"strconv"
	"strings"
)

// An Op is what an [Expression] does with its parts. The zero value is never
// satisfied.
type Op int

const (
	All     Op = iota + 1 // every one of Terms; of none, satisfied
	Any                   // one of Terms; of none, not
	Matches               // Test
	Compare               // two attributes: Comparison
)

// An Expression is a condition over attributes, made from an author's CEL. It
// has no loops, no arithmetic and no regular expressions. Negations stand at the
// leaves alone: in NotIn of a test, and in Not of a comparison.
type Expression struct {
	Op         Op
	Terms      []Expression
	Test       Test
	Comparison Comparison
	// Source is the author's text; of the outermost expression only.
	Source string
}

// A Comparison holds the value of one attribute against that of another,
// between two literal texts: request.path.startsWith("/users/" + claim + "/").
type Comparison struct {
	Left  Attribute
	How   Kind // Exact, Prefix or Suffix
	Lead  string
	Right Attribute
	Trail string
	Not   bool // satisfied where it does not hold
}

// Attributes calls yield for each attribute that e asks for.
func (e *Expression) Attributes(yield func(Attribute)) {
	if e == nil {
		return
	}
	switch e.Op {
	case Matches:
		yield(e.Test.Attribute)
	case Compare:
		yield(e.Comparison.Left)
		yield(e.Comparison.Right)
	}
	for i := range e.Terms {
		e.Terms[i].Attributes(yield)
	}
}

// Holds compares two values, without regard to Not.
func (c Comparison) Holds(left, right string) bool { return c.holds(left, c.Lead+right+c.Trail) }

// HoldsFolded is Holds for a path on the left, as [FoldPath] folds it.
func (c Comparison) HoldsFolded(path, right string) bool {
	return c.holds(FoldPath(path), lower(c.Lead+right+c.Trail))
}

func (c Comparison) holds(left, text string) bool {
	switch c.How {
	case Exact:
		return left == text
	case Prefix:
		return strings.HasPrefix(left, text)
	case Suffix:
		return strings.HasSuffix(left, text)
	}
	return false
}

// Name is an author's reading of c that no other comparison has, not even the
// same one where a peer has other names: two who know the same name mean the same
// question, whichever version of the policies each of them has.
func (c Comparison) Name(d Domains) string {
	how := map[Kind]string{Exact: " is ", Prefix: " begins with ", Suffix: " ends with "}[c.How]
	if how == "" {
		how = " never "
	}
	name := c.Left.String() + how + strconv.Quote(c.Lead) + " + " + c.Right.String() + " + " + strconv.Quote(c.Trail)
	if c.Not {
		name = "not " + name
	}
	if c.Left.OfPeer() || c.Right.OfPeer() {
		// Names of trust domains have neither commas nor semicolons.
		var family, foreign []string
		for _, td := range d.Family() {
			family = append(family, td.Name())
		}
		for _, td := range d.Foreign {
			foreign = append(foreign, td.Name())
		}
		slices.Sort(family)
		slices.Sort(foreign)
		name += " in " + strings.Join(slices.Compact(family), ",") + ";" + strings.Join(slices.Compact(foreign), ",")
	}
	return name
}
