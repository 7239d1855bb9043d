// Package renew keeps a short-lived certificate fresh.
//
// It decides when to renew and when to try again; it neither makes keys nor
// stores them, and says nothing of certificates but when they end. [At] and
// [Failure.Wait] are the whole policy and touch no clock; [Loop] lives by them.
package renew
