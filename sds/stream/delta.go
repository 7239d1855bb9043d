package stream

import (
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// Delta feeds one delta request. An error, a *[Refusal], ends the stream. The
// request is not kept.
func (s *Session) Delta(now time.Time, request *discoveryv3.DeltaDiscoveryRequest) error {
	if err := s.checkDelta(request); err != nil {
		return err
	}
	sub, isNew, err := s.subscribe(request.GetTypeUrl())
	if err != nil {
		return err
	}
	if nonce := request.GetResponseNonce(); nonce != "" && !isNew {
		refused := ""
		if status := request.GetErrorDetail(); status != nil {
			refused = detail(status)
			if err := s.spendNack(now); err != nil {
				return err
			}
		}
		// A nonce that is not outstanding acknowledges nothing; what the
		// request subscribes to holds all the same.
		s.settle(sub, nonce, refused, now)
	}
	if isNew && len(request.GetResourceNamesSubscribe()) == 0 {
		sub.wildcard = true // the older way to ask for everything
	}
	for _, name := range request.GetResourceNamesUnsubscribe() {
		if name == wildcardName {
			sub.setWildcard(false)
		} else {
			sub.drop(name)
		}
	}
	for _, name := range request.GetResourceNamesSubscribe() {
		if name == wildcardName {
			sub.setWildcard(true)
		} else {
			sub.add(name)
		}
	}
	if most := s.maxNames(); len(sub.names) > most {
		return refuse("too-many-names", "%d names on one stream, at most %d", len(sub.names), most)
	}
	if isNew {
		sub.claim(request.GetInitialResourceVersions())
	}
	return nil
}

// claim takes the client's word for what it holds from an earlier stream. In
// delta that word is for each name, and Envoy forgets it with the holder, so
// what is unchanged need not be sent.
func (sub *subscription) claim(versions map[string]string) {
	for name, version := range versions {
		if _, named := sub.names[name]; version == "" || !named && !sub.wildcard {
			continue
		}
		e := sub.entry(name)
		e.due, e.holds, e.claimed = false, version, true
	}
}

func (s *Session) checkDelta(request *discoveryv3.DeltaDiscoveryRequest) error {
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
	if err := checkVersions(request.GetInitialResourceVersions(), s.maxNames()); err != nil {
		return err
	}
	if err := checkLocators(request.GetResourceLocatorsSubscribe(), request.GetResourceLocatorsUnsubscribe()); err != nil {
		return err
	}
	if err := checkNames(request.GetResourceNamesUnsubscribe(), s.maxNames()); err != nil {
		return err
	}
	return checkNames(request.GetResourceNamesSubscribe(), s.maxNames())
}
