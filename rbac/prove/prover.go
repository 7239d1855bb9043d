package prove

import (
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/interpret"
)

// A Prover proves the filters of one workload, one after the other. It keeps
// what it has shown of a rule, and of bytes what they say, so that a filter in
// which little has changed costs little. What it keeps is at most thrice what one
// filter needs. The zero Prover is ready. It is not for several goroutines at
// once.
type Prover struct {
	memory *memory
	first  int // how much there was after the first proof
}

// HTTP is [HTTP].
func (p *Prover) HTTP(set rbac.Set, filter *anypb.Any) error {
	defer p.tidy()
	return p.recall().enforced(set, filter, false)
}

// TCP is [TCP].
func (p *Prover) TCP(set rbac.Set, filter *anypb.Any) error {
	defer p.tidy()
	return p.recall().enforced(set, filter, true)
}

// Audit is [Audit].
func (p *Prover) Audit(set rbac.Set, filter *anypb.Any) error {
	defer p.tidy()
	return p.recall().audited(set, filter)
}

// Custom is [Custom].
func (p *Prover) Custom(set rbac.Set, provider string, filter *anypb.Any) error {
	defer p.tidy()
	return p.recall().asked(set, provider, filter)
}

func (p *Prover) recall() *memory {
	if p.memory == nil {
		p.memory = newMemory()
		p.memory.decoder = new(interpret.Decoder)
		p.first = 0
	}
	return p.memory
}

// slack is how much more may be kept than thrice the first proof's, so that
// small ones do not begin anew again and again.
const slack = 100_000

// tidy forgets everything once it is too much.
func (p *Prover) tidy() {
	n := p.memory.len()
	if p.first == 0 {
		p.first = n
	}
	if n > 3*p.first+slack {
		p.memory = nil
	}
}

// A memory is what is kept from one proof to the next.
type memory struct {
	*table
	decoder *interpret.Decoder // nil: of bytes nothing is kept
	worlds  map[string]*world
	read    map[readKey]readItems
}

func newMemory() *memory {
	return &memory{table: newTable(), worlds: map[string]*world{}, read: map[readKey]readItems{}}
}

func (m *memory) len() int {
	n := len(m.atoms) + len(m.folds) + len(m.read) + m.decoder.Len()
	for _, w := range m.worlds {
		n += len(w.simplified) + len(w.proved) + len(w.rules)
	}
	return n
}

// world is what is known where facts hold.
func (m *memory) world(lowering *lowering, facts []literal) *world {
	k := string(box(facts).key(nil))
	if lowering.tcp {
		k += "tcp"
	}
	if lowering.words {
		k += "words"
	}
	for _, td := range lowering.accepted {
		k += "\x00" + td.Name()
		if lowering.domains.IsOurs(td) {
			k += "\x00ours"
		}
	}
	w, ok := m.worlds[k]
	if !ok {
		w = &world{table: m.table, facts: facts, simplified: map[*node]*node{}, proved: map[sum]bool{}, rules: map[sum]*node{}}
		m.worlds[k] = w
	}
	return w
}

// A readKey is one branch at the top of a matcher.
type readKey struct {
	of   attribute
	how  relation
	text string
	when *interpret.Predicate // of a line
	then interpret.Then
}

// readItems are what it says.
type readItems struct {
	items        []item
	ofTLS, folds bool
}
