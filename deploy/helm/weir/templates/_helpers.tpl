{{/* What every object carries: as in the kustomize base, plus whose chart it is. */}}
{{- define "weir.labels" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/part-of: weir
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "weir.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* host:port, with an IPv6 address in brackets: include "weir.address" (list host port) */}}
{{- define "weir.address" -}}
{{- $host := index . 0 -}}
{{- if contains ":" $host }}[{{ $host }}]{{ else }}{{ $host }}{{ end }}:{{ index . 1 }}
{{- end }}

{{/* Where the kubelet asks: "all addresses" is none that can be asked. */}}
{{- define "weir.probeHost" -}}
{{- if has .Values.metrics.host (list "0.0.0.0" "::") -}}
127.0.0.1
{{- else -}}
{{ .Values.metrics.host }}
{{- end -}}
{{- end }}

{{/* uid 0, which /run/weir belongs to, and nothing else of root. */}}
{{- define "weir.noPrivileges" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* weir-cni, as init container and as sidecar: include "weir.cni" (dict "root" . "watch" bool) */}}
{{- define "weir.cni" -}}
image: {{ include "weir.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [weir-cni]
args:
  - install
  {{- if .watch }}
  - --watch
  {{- end }}
  - --bin-dir=/host/opt/cni/bin
  - --conf-dir=/host/etc/cni/net.d
  - --on-failure=$(WEIR_ON_FAILURE)
env:
  - name: WEIR_ON_FAILURE
    value: {{ .root.Values.onFailure }}
  - name: WEIR_LOG
    value: {{ .root.Values.logLevel | quote }}
resources:
  {{- toYaml .root.Values.resources.cni | nindent 2 }}
securityContext:
  {{- include "weir.noPrivileges" .root | nindent 2 }}
volumeMounts:
  - name: cni-bin
    mountPath: /host/opt/cni/bin
  - name: cni-conf
    mountPath: /host/etc/cni/net.d
{{- end }}
