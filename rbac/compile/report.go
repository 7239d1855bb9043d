package compile

// A Report says what a compiled filter costs.
type Report struct {
	// Boxes is how many lines and entries take an action. A rule has several
	// where it lies under several keys.
	Boxes int
	// Bytes is the size of the filter.
	Bytes int
	// Longest is how many lines the longest list has.
	Longest int
	// Listed counts the rules that are not found by a key but asked one after
	// the other, in lists longer than a few, by why that is. A request costs
	// about 0.1 µs for each.
	Listed map[Shape]int
}

// A Shape is why rules are listed. The words are stable.
type Shape string

const (
	ShapeSuffix   Shape = "suffix"   // it asks how a text ends, or what is in it
	ShapeClaim    Shape = "claim"    // it asks for a claim, which may be a list
	ShapeWord     Shape = "word"     // it asks for our own provider's word
	ShapeNegation Shape = "negation" // it only says what is not
	ShapeProduct  Shape = "product"  // its lists would multiply beyond bounds
	ShapeAlike    Shape = "alike"    // its keys are those of all the others
)

// fewLines is how long a list may be and not be told of.
const fewLines = 8

func (r *Report) add(o Report) {
	r.Boxes += o.Boxes
	r.Longest = max(r.Longest, o.Longest)
	for shape, n := range o.Listed {
		r.tell(shape, n)
	}
}

func (r *Report) tell(shape Shape, n int) {
	if r.Listed == nil {
		r.Listed = map[Shape]int{}
	}
	r.Listed[shape] += n
}

// listed counts a list.
func (r *Report) listed(boxes []*box) {
	r.Longest = max(r.Longest, len(boxes))
	if len(boxes) <= fewLines {
		return
	}
	for _, b := range boxes {
		r.tell(b.shape(), 1)
	}
}

// shape is why b is in a list.
func (b *box) shape() Shape {
	shape, keyed := ShapeNegation, false
	var look func(f *formula)
	look = func(f *formula) {
		for i := range f.kids {
			look(&f.kids[i])
		}
		if f.op != opLiteral || f.lit.not {
			return
		}
		switch _, _, ok := f.lit.under(); {
		case ok:
			keyed = true
		case f.lit.in.kind == inClaim:
			shape = ShapeClaim
		case f.lit.in.kind == inWord && shape != ShapeClaim:
			shape = ShapeWord
		case shape != ShapeClaim && shape != ShapeWord:
			shape = ShapeSuffix
		}
	}
	for i := range b.terms {
		look(&b.terms[i])
	}
	if !keyed {
		return shape
	}
	for i := range b.terms {
		for _, in := range b.terms[i].inputs(nil) {
			if b.found(in).may {
				return ShapeAlike
			}
		}
	}
	return ShapeProduct
}
