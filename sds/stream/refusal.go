package stream

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// The limits of a stream. They are far above what an Envoy beside one workload
// asks for, and low enough that what a hostile one can make us hold is small.
const (
	// MaxNames is how many names a stream may subscribe to, for each type,
	// where its Session does not say otherwise.
	MaxNames = 64
	// MaxNameSize is the longest name, in bytes: SPIFFE-ID §2.3 asks for 2048.
	MaxNameSize = 2048
	// MaxTypes is how many resource types one stream may ask for.
	MaxTypes = 16
	// MaxFirstRequest is the size of a stream's first request, in bytes of its
	// wire form. It carries the node, in which Envoy 1.40 lists 61 KB of
	// extensions.
	MaxFirstRequest = 256 << 10
	// MaxRequest is the size of a later request.
	MaxRequest = 64 << 10
	// maxTypeURL and maxToken bound the other strings of a request.
	maxTypeURL = 256
	maxToken   = 256
	// maxDetail is how much of a client's refusal is kept.
	maxDetail = 1 << 10
)

// A client may refuse nackBurst responses at once and one each nackRefill
// after that. A stream that refuses more is ended: an Envoy comes back after a
// back-off of its own, and nobody fills our log.
const (
	nackBurst  = 256
	nackRefill = time.Second
)

// A Refusal is why a request ends its stream. Its text is fit for a log and
// holds nothing that the client did not send.
type Refusal struct {
	// Reason is a stable code, such as "too-many-names".
	Reason string
	detail string
}

// Error returns the reason and what was wrong.
func (r *Refusal) Error() string {
	return "sds request refused: " + r.Reason + ": " + r.detail
}

func refuse(reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, detail: fmt.Sprintf(format, args...)}
}

// checkSize holds a request to the size limits before anything looks into it.
func checkSize(request proto.Message, first bool) error {
	limit := MaxRequest
	if first {
		limit = MaxFirstRequest
	}
	if size := proto.Size(request); size > limit {
		return refuse("request-too-large", "%d bytes, at most %d", size, limit)
	}
	return nil
}

// checkTypeURL refuses what cannot name a resource type.
func checkTypeURL(url string) error {
	switch {
	case url == "":
		return refuse("type-url-missing", "the request names no resource type")
	case len(url) > maxTypeURL:
		return refuse("type-url-invalid", "%d bytes, at most %d", len(url), maxTypeURL)
	case !strings.HasPrefix(url, "type.googleapis.com/") || !printable(url) || strings.Contains(url, " "):
		return refuse("type-url-invalid", "%s", escape(url))
	}
	return nil
}

// checkToken refuses a nonce or version that cannot be one of ours. They are
// compared, kept and logged, so they must be short and printable.
func checkToken(what, token string) error {
	if len(token) > maxToken || !printable(token) {
		return refuse(what+"-invalid", "%s", escape(token))
	}
	return nil
}

func checkNames(names []string, most int) error {
	if len(names) > most {
		return refuse("too-many-names", "%d names, at most %d", len(names), most)
	}
	for _, name := range names {
		switch {
		case name == "":
			return refuse("name-empty", "a resource name is empty")
		case len(name) > MaxNameSize:
			return refuse("name-too-long", "%d bytes, at most %d", len(name), MaxNameSize)
		case !printable(name):
			return refuse("name-invalid", "%s", escape(name))
		}
	}
	return nil
}

// checkVersions holds initial_resource_versions to the limits of names.
func checkVersions(versions map[string]string, most int) error {
	if len(versions) > most {
		return refuse("too-many-versions", "%d initial versions, at most %d", len(versions), most)
	}
	for name, version := range versions {
		if err := checkNames([]string{name}, 1); err != nil {
			return err
		}
		if err := checkToken("version", version); err != nil {
			return err
		}
	}
	return nil
}

// checkLocators refuses the locators of xdstp dynamic parameters: taking them
// for absent would answer another question than the client asked.
func checkLocators(lists ...[]*discoveryv3.ResourceLocator) error {
	for _, list := range lists {
		if len(list) > 0 {
			return refuse("locators-unsupported", "resource locators are not served")
		}
	}
	return nil
}

// printable reports whether s is text without control characters.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// escape makes a stranger's text fit for a log line: ASCII, one line, short,
// and without a key, should a client quote what it was sent.
func escape(s string) string {
	if strings.Contains(s, "PRIVATE KEY") {
		return "(withheld: it quotes a private key)"
	}
	cut := len(s) > maxDetail
	if cut {
		s = s[:maxDetail]
	}
	s = strconv.QuoteToASCII(s)
	s = s[1 : len(s)-1]
	// An escaped byte takes up to ten; the limit holds for what is kept.
	if len(s) > maxDetail {
		s, cut = s[:maxDetail], true
	}
	if cut {
		s += "…"
	}
	return s
}

// CheckType refuses a request for another type than the one that a service is
// for. An empty only serves every type.
func CheckType(typeURL, only string) error {
	if only != "" && typeURL != only {
		return refuse("type-url-unsupported", "%s", escape(typeURL))
	}
	return nil
}

// Check holds a request that comes without a stream to the same limits.
func Check(request *discoveryv3.DiscoveryRequest, only string) error {
	if err := CheckType(request.GetTypeUrl(), only); err != nil {
		return err
	}
	return NewSotW().checkSotW(request)
}
