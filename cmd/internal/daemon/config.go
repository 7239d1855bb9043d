package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"sigs.k8s.io/yaml"
)

// maxConfig is the most that a configuration file may hold, in bytes.
const maxConfig = 1 << 20

// A Validator is a configuration that can tell what is wrong with it.
type Validator interface{ Validate() error }

// Load reads one YAML file into config, which holds the defaults, and validates
// the result. Unknown and repeated keys, several documents, and files over
// 1 MiB are errors: a daemon does not start on what it does not understand.
func Load(path string, config Validator) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return fmt.Errorf("reading the configuration %s: %w", path, err)
	}
	if err := Decode(data, config); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

// Decode is Load for bytes at hand.
func Decode(data []byte, config Validator) error {
	if len(data) > maxConfig {
		return fmt.Errorf("larger than %d bytes", maxConfig)
	}
	// A second document would be dropped in silence by the decoder.
	if err := oneDocument(data); err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(data, config); err != nil {
		return err
	}
	return config.Validate()
}

func oneDocument(data []byte) error {
	started := false
	for line := range lines(data) {
		switch {
		case line == "---" && started, line == "...":
			return errors.New("more than one YAML document")
		case line != "" && line[0] != '#':
			started = true
		}
	}
	return nil
}

// Print writes config as YAML, for --print-config.
func Print(w io.Writer, config any) error {
	data, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("printing the configuration: %w", err)
	}
	_, err = w.Write(data)
	return err
}

// A Duration is a time.Duration written as in "1h30m".
type Duration time.Duration

// Std is the duration as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalJSON writes the form that UnmarshalJSON reads.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads a string such as "90s". A bare number is refused: its
// unit would be a guess.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("a duration is a string such as \"90s\", not %s", data)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}
