package stream_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/istio-auth/istio-auth/sds/stream"
)

// TestNamesAreForgotten: a client that asks for everything, and for names that
// it leaves again, makes us hold none of them. 12 MB of names go by.
func TestNamesAreForgotten(t *testing.T) {
	const url = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	now := time.Now()
	for name, ask := range map[string]func(*stream.Session, []string) error{
		"sotw": func(s *stream.Session, names []string) error {
			return s.SotW(now, &discoveryv3.DiscoveryRequest{TypeUrl: url, ResourceNames: append(names, "*")})
		},
		"delta": func(s *stream.Session, names []string) error {
			err := s.Delta(now, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: append(names, "*")})
			if err == nil {
				err = s.Delta(now, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesUnsubscribe: names})
			}
			return err
		},
	} {
		for _, complete := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " complete ", complete), func(t *testing.T) {
				s := stream.NewSotW()
				if name == "delta" {
					s = stream.NewDelta()
				}
				before := heap()
				for round := range 200 {
					names := make([]string, 30)
					for i := range names {
						names[i] = fmt.Sprint(strings.Repeat("n", 2000), round, "-", i)
					}
					if err := ask(s, names); err != nil {
						t.Fatal(err)
					}
					s.Set(url, stream.Snapshot{Complete: complete})
					for {
						if _, more := s.Next(now); !more {
							break
						}
					}
				}
				if grown := int64(heap()) - int64(before); grown > 2<<20 {
					t.Errorf("the session grew by %d bytes", grown)
				}
				runtime.KeepAlive(s)
			})
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
