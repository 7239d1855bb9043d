package stream

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"

	"google.golang.org/protobuf/types/known/anypb"
)

// A Resource is one named xDS resource. It is shared by every stream that sends
// it and must not change once it is in a [Snapshot].
type Resource struct {
	// Name is the resource name that a client subscribes to.
	Name string
	// Version changes with the content and with nothing else, so that a client
	// that reconnects, or meets a restarted server, is not sent what it holds.
	// It is no secret: it is logged and counted.
	Version string
	// Body is the resource itself, marshalled once.
	Body *anypb.Any
}

// String names the resource and nothing of its body, which may hold a key.
func (r Resource) String() string { return r.Name + "@" + r.Version }

// Format prints String, whatever the verb.
func (r Resource) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(r.String())) }

// LogValue is String for slog.
func (r Resource) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalJSON is String for JSON.
func (r Resource) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }

// A Snapshot is all that is known of one resource type at one moment. It must
// not change once it is handed out; the next one replaces it whole. The zero
// Snapshot knows nothing yet.
type Snapshot struct {
	// Resources is keyed by the resource's name.
	Resources map[string]*Resource
	// Complete says that a name that is absent does not exist, and a delta
	// client is told so. Otherwise absent means "not known yet", and the
	// answer is silence: never a removal, never an empty set.
	Complete bool
}

// A Cell holds the newest [Snapshot] of one type and wakes those who wait for
// the next. The zero Cell holds the zero Snapshot. All methods may be called at
// once.
type Cell struct {
	mu       sync.Mutex // guards what follows
	snapshot Snapshot
	replaced chan struct{}
}

// Current returns the newest snapshot and a channel that is closed when it is
// replaced.
func (c *Cell) Current() (Snapshot, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replaced == nil {
		c.replaced = make(chan struct{})
	}
	return c.snapshot, c.replaced
}

// Set replaces the snapshot.
func (c *Cell) Set(s Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snapshot = s
	if c.replaced != nil {
		close(c.replaced)
		c.replaced = nil
	}
}
