package renew_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/nodeagent/renew"
	"github.com/istio-auth/istio-auth/test/testreq"
)

// The figures of docs/ROTATION.md come from the policy, not from memory.
func TestRotationTable(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(testreq.Tree(t), "docs", "ROTATION.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		life, err := time.ParseDuration(strings.TrimSpace(cells[0]))
		if err != nil {
			continue
		}
		rows++
		earliest, latest := renew.At(born, born.Add(life), 0), renew.At(born, born.Add(life), 1)
		mean := renew.At(born, born.Add(life), 0.5).Sub(born)
		want := fmt.Sprintf("| %s | %s | %s | %s | %.0f |", short(life), short(earliest.Sub(born)), short(latest.Sub(born)),
			short(born.Add(life).Sub(latest)), math.Round(float64(24*time.Hour)/float64(mean)))
		if got := strings.TrimSpace(line); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if rows != 5 {
		t.Errorf("found %d rows, want 5", rows)
	}
}

// short is d without zero parts behind: 6h, not 6h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
