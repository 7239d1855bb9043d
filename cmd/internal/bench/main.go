// Command bench measures what issue after issue promises, and prints a line of
// JSON for each figure. Speed is told as a ratio to something measured in the
// same run, since machines are noisy and shared.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Figure is one line of output. Floor and Ratio are there where the value is
// compared with a floor of the same unit.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Floor float64 `json:"floor,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
	// Note says what was measured.
	Note string `json:"note"`
}

// against completes a figure that has a floor.
func (f Figure) against(floor float64) Figure {
	f.Floor, f.Ratio = floor, f.Value/floor
	return f
}

// benches are the figures by name, in the order in which they are printed.
var benches = []struct {
	name string
	run  func(context.Context, func(Figure)) error
}{
	{"issuance", alone(issuance)},
	{"fanout", alone(fanout)},
	{"first-identity", alone(firstIdentity)},
	{"compile", compileTime},
	{"policy-change", changeTime},
	{"envoy-request", envoyRequest},
	{"policy-curve", policyCurve},
}

// alone is a bench that has one figure.
func alone(bench func(context.Context) (Figure, error)) func(context.Context, func(Figure)) error {
	return func(ctx context.Context, emit func(Figure)) error {
		f, err := bench(ctx)
		if err == nil {
			emit(f)
		}
		return err
	}
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, wanted []string, out io.Writer) error {
	var names []string
	for _, b := range benches {
		names = append(names, b.name)
	}
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return fmt.Errorf("no figure is named %q: there are %s", w, strings.Join(names, ", "))
		}
	}
	encoder := json.NewEncoder(out)
	for _, b := range benches {
		if len(wanted) > 0 && !slices.Contains(wanted, b.name) {
			continue
		}
		var failed error
		err := b.run(ctx, func(f Figure) {
			if f.Name == "" {
				f.Name = b.name
			}
			failed = errors.Join(failed, encoder.Encode(f))
		})
		if err := errors.Join(err, failed); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	return nil
}

// cpu is the processor time that this process has used, in all its threads.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // RUSAGE_SELF is always there
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
