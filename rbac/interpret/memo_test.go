package interpret_test

import (
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestDecoder: what a Decoder remembers of other filters makes no difference, and
// takes no byte for another.
func TestDecoder(t *testing.T) {
	var d interpret.Decoder
	for seed := range uint64(20) {
		set := rbac.Select(rbactest.Rich.Policies(20, seed/2), rbactest.Target())
		filter, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		want, err := interpret.Decode(filter)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Decode(filter); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: another filter, %v", seed, err)
		}
		for at := 0; at < len(filter.Value); at += 997 {
			spoiled := proto.CloneOf(filter)
			spoiled.Value[at] ^= 1
			want, wantErr := interpret.Decode(spoiled)
			got, err := d.Decode(spoiled)
			if (err == nil) != (wantErr == nil) || err == nil && !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: byte %d: %v, want %v", seed, at, err, wantErr)
			}
		}
	}
	if d.Len() == 0 {
		t.Error("nothing is remembered")
	}
}
