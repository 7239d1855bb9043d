package stream

import (
	"strconv"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// wildcardName subscribes to everything of a type.
const wildcardName = "*"

// SotW feeds one state-of-the-world request. An error, a *[Refusal], ends the
// stream. The request is not kept.
func (s *Session) SotW(now time.Time, request *discoveryv3.DiscoveryRequest) error {
	if err := s.checkSotW(request); err != nil {
		return err
	}
	sub, isNew, err := s.subscribe(request.GetTypeUrl())
	if err != nil {
		return err
	}
	if isNew {
		// The version that the client brings from an earlier stream is not
		// looked at: Envoy sends it on behalf of a type, also when the one who
		// held the resource is gone and a new one waits with nothing.
		sub.wildcard = len(request.GetResourceNames()) == 0
		sub.replace(request.GetResourceNames(), false)
		return nil
	}

	nonce, refused := request.GetResponseNonce(), ""
	if status := request.GetErrorDetail(); status != nil {
		refused = detail(status)
		if err := s.spendNack(now); err != nil {
			return err
		}
	}
	again := true
	if nonce != "" {
		number, err := strconv.ParseUint(nonce, 10, 64)
		if err != nil || number == 0 || number > sub.last {
			return nil // never ours: it says nothing
		}
		// The first request under a nonce answers it. Another one is no
		// acknowledgement: somebody asks again (envoy#47309), names changed or
		// not.
		if again = number <= sub.answered; !again {
			sub.answered = number
			s.settle(sub, nonce, refused, now)
		}
	}
	// An older nonce than the newest makes the acknowledgement old, but not the
	// names: requests arrive in order. To pass over them would lose a name that
	// the client left and took up again meanwhile.
	sub.replace(request.GetResourceNames(), again)
	return nil
}

// replace sets the names. Again asks for an answer to all of them if none is
// new.
func (sub *subscription) replace(names []string, again bool) {
	want := map[string]struct{}{}
	star := false
	for _, name := range names {
		if name == wildcardName {
			star = true
			continue
		}
		want[name] = struct{}{}
	}
	legacy := len(names) == 0 && sub.wildcard && len(sub.names) == 0
	changed := false
	if star || legacy {
		if changed = !sub.wildcard; changed || again {
			sub.setWildcard(true)
		}
	} else if sub.wildcard {
		changed = true
		sub.setWildcard(false)
	}
	for name := range sub.names {
		if _, ok := want[name]; !ok {
			changed = true
			sub.drop(name)
		}
	}
	for name := range want {
		if _, ok := sub.names[name]; !ok {
			changed = true
			sub.add(name)
		}
	}
	if again && !changed {
		for name := range want {
			sub.add(name)
		}
	}
}

func (s *Session) checkSotW(request *discoveryv3.DiscoveryRequest) error {
	first := s.first
	s.first = false
	if err := checkSize(request, first); err != nil {
		return err
	}
	if err := checkTypeURL(request.GetTypeUrl()); err != nil {
		return err
	}
	if err := checkToken("nonce", request.GetResponseNonce()); err != nil {
		return err
	}
	if err := checkToken("version", request.GetVersionInfo()); err != nil {
		return err
	}
	if err := checkLocators(request.GetResourceLocators()); err != nil {
		return err
	}
	return checkNames(request.GetResourceNames(), s.maxNames())
}
