{{/* Labels of every object. */}}
{{- define "istio-auth.labels" -}}
app.kubernetes.io/part-of: istio-auth
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | splitList "@" | first | trunc 63 | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* An image: (list . "istio-ca"). */}}
{{- define "istio-auth.image" -}}
{{- $root := index . 0 -}}
image: {{ printf "%s/%s:%s" $root.Values.image.registry (index . 1) ($root.Values.image.tag | default $root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- end }}

{{- define "istio-auth.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* PodSecurity "restricted", for a pod and for its container. */}}
{{- define "istio-auth.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
# Else each mount would open the files of the state to the group.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "istio-auth.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The token with which a client of the API server finds it: an hour's, instead of an automatic one. */}}
{{- define "istio-auth.apiVolume" -}}
- name: api
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}
{{- define "istio-auth.apiMount" -}}
- {name: api, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{/* What a client of the CA needs: its own evidence, and the first trust. */}}
{{- define "istio-auth.caVolumes" -}}
- name: token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, audience: {{ printf "agent.istio-auth.%s" .Values.trustDomain }}, expirationSeconds: 600}
- name: bundle
  configMap: {name: istio-auth-bundle}
{{- end }}
{{- define "istio-auth.caMounts" -}}
- {name: token, mountPath: /var/run/istio-auth/token, readOnly: true}
- {name: bundle, mountPath: /var/run/istio-auth/bundle, readOnly: true}
{{- end }}
{{- define "istio-auth.caClient" -}}
ca:
  address: istio-ca.{{ .Release.Namespace }}.svc:15012
  bundle: /var/run/istio-auth/bundle/bundle.pem
  token: /var/run/istio-auth/token/token
{{- end }}

{{- define "istio-auth.probes" -}}
readinessProbe:
  httpGet: {path: /readyz, port: health}
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
