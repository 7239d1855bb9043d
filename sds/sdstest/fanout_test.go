package sdstest_test

import (
	"context"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/sds/sdstest"
)

func TestFanOut(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	result, err := sdstest.FanOut(ctx, 20)
	if err != nil {
		t.Fatal(err)
	}
	if result.Took <= 0 || result.Floor <= 0 || result.Bytes < 500 {
		t.Errorf("got %+v", result)
	}
}

// BenchmarkFanOut prints what `make bench BENCH=fanout` reports.
func BenchmarkFanOut(b *testing.B) {
	for b.Loop() {
		result, err := sdstest.FanOut(b.Context(), 1000)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(result.Took.Microseconds()), "µs/renewal")
		b.ReportMetric(float64(result.Floor.Microseconds()), "µs/floor")
		b.ReportMetric(float64(result.Took)/float64(result.Floor), "ratio")
		b.ReportMetric(float64(result.Bytes), "bytes")
	}
}
