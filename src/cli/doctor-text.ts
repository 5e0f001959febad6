/** A report as people read it. Pure. */

import { packageNames, pythonInUse, type DoctorBridge, type DoctorProblem, type DoctorReport } from './doctor-report'

type Mark = '✓' | '!' | '✗' | ' '

/** The report's lines: one each for what there is, then what is wrong and what to do. */
export function reportText(report: DoctorReport): string {
  const line = (mark: Mark, name: string, text: string): string => `  ${mark} ${name.padEnd(12)} ${text}`
  const mark = (part: DoctorProblem['part'], works: boolean): Mark => {
    const worst = report.problems.find((problem) => problem.part === part && problem.level !== 'note')
    return worst === undefined ? (works ? '✓' : ' ') : worst.level === 'error' ? '✗' : '!'
  }
  const { binary } = report.pillion
  const used = pythonInUse(report.pythons)
  const lines = [
    `pillion ${report.pillion.version}`,
    '',
    line(mark('binary', binary !== undefined), 'binary', binary === undefined ? 'not loaded' : binaryText(binary)),
    ...machineLines(report).map(([name, text]) => line(' ', name, text)),
    '',
    ...pythonLines(report, mark('python', used !== undefined)).map(([sign, name, text]) => line(sign, name, text)),
    line(mark('packages', used !== undefined), 'packages', packagesText(report)),
    line(report.libraries?.torch == null ? ' ' : '✓', 'device', deviceText(report)),
    '',
    ...report.bridges.map((bridge) => line(mark(bridge.bridge, bridge.works), bridge.bridge, bridgeText(bridge))),
    ...(report.bridges.length === 0 ? [line(' ', 'bridges', 'not tried')] : []),
    '',
    ...report.problems.flatMap(problemLines),
    verdict(report),
  ]
  return `${lines.join('\n')}\n`
}

function binaryText({ path, from, target, optimized }: NonNullable<DoctorReport['pillion']['binary']>): string {
  const origin = { package: 'prebuilt', checkout: 'built beside its sources', variable: 'named by PILLION_NATIVE_PATH' }
  return `${path} (${target}, ${origin[from]}${optimized ? '' : ', without optimisation'})`
}

function machineLines({ machine }: DoctorReport): [name: string, text: string][] {
  const { platform, kernel, libc, node, cpu, memory, devShmBytes, variables } = machine
  const system = [platform, kernel, ...(libc === undefined ? [] : [`${libc.name} ${libc.version ?? ''}`.trim()])]
  const cores =
    cpu.usable < cpu.cores ? `${cpu.usable} of ${cpu.cores} cores (affinity or cgroup)` : `${cpu.cores} cores`
  const limit = memory.limitBytes === undefined ? '' : `, limited to ${bytes(memory.limitBytes)} (cgroup)`
  const shm = devShmBytes === undefined ? [] : [`/dev/shm ${bytes(devShmBytes)}`]
  return [
    ['node', `${node.version} at ${node.path}`],
    ['system', system.join(', ')],
    [
      'machine',
      [cores, `${bytes(memory.totalBytes)} of memory${limit}`, `${bytes(memory.availableBytes)} free`, ...shm].join(
        ', ',
      ),
    ],
    ...Object.entries(variables).map(([name, value]): [string, string] => ['variable', `${name}=${value}`]),
  ]
}

function pythonLines(report: DoctorReport, mark: Mark): [mark: Mark, name: string, text: string][] {
  const used = pythonInUse(report.pythons)
  const chosen =
    used === undefined
      ? 'none that can be used'
      : `${used.version ?? ''} at ${used.executable ?? used.path} (${used.source})`
  const others = report.pythons.filter((candidate) => candidate !== used)
  return [
    [mark, 'python', chosen],
    ...others.map(({ source, path, version, problem }): [Mark, string, string] => {
      const what = version === null ? path : `${version} at ${path}`
      const free =
        used === undefined ? 'not taken in place of the one that was named' : 'not needed, since the one above is taken'
      const why = problem === null ? free : `${problem.code}: ${problem.message}`
      return [' ', '', `passed over: ${what} (${source}): ${why}`]
    }),
  ]
}

function packagesText(report: DoctorReport): string {
  const used = pythonInUse(report.pythons)
  if (used === undefined || Object.keys(used.packages).length === 0) return 'not known'
  const said = Object.entries(used.packages).map(([name, version]) => {
    const broken = report.libraries?.packages[name]?.error != null ? ' (broken)' : ''
    return version === null ? `no ${packageNames[name] ?? name}` : `${packageNames[name] ?? name} ${version}${broken}`
  })
  return said.join(', ')
}

function deviceText({ libraries }: DoctorReport): string {
  const torch = libraries?.torch
  if (torch == null) return 'not known, since torch was not imported'
  const { cuda } = torch
  const devices = cuda.devices.map(({ name, memoryBytes }) => `${name} (${bytes(memoryBytes)})`)
  const cpu = `CPU (${torch.cpu}, ${torch.threads} thread${torch.threads === 1 ? '' : 's'})`
  if (devices.length > 0) return `CUDA ${cuda.built ?? ''}: ${devices.join(', ')}; ${cpu}`
  return `${torch.mps ? `MPS; ${cpu}` : cpu}; no CUDA: ${cuda.reason ?? 'no reason was given'}`
}

function bridgeText({ works, isDefault, roundTrip, loadMs, error }: DoctorBridge): string {
  if (roundTrip === undefined || !works) return error === undefined ? 'not tried' : `${error.code}: ${error.message}`
  const { count, p50Us, p99Us } = roundTrip
  const time = `${p50Us} us a round trip (p50 of ${count}, p99 ${p99Us} us), loaded in ${loadMs ?? 0} ms`
  const after = error === undefined ? '' : `; then ${error.code}: ${error.message}`
  return `${time}${isDefault ? "; what bridge: 'auto' takes" : ''}${after}`
}

function problemLines({ level, part, code, message, remedy }: DoctorProblem): string[] {
  const what = `${level}: ${part}: ${code === undefined ? '' : `${code}: `}${message}`
  return remedy === undefined ? [what] : [what, `hint: ${remedy}`]
}

function verdict({ healthy, problems }: DoctorReport): string {
  const count = (level: DoctorProblem['level']): string => {
    const number = problems.filter((problem) => problem.level === level).length
    return `${number} ${level}${number === 1 ? '' : 's'}`
  }
  return `${healthy ? 'healthy' : 'not healthy'}: ${count('error')}, ${count('warning')}`
}

function bytes(number: number): string {
  const gib = number / 2 ** 30
  return gib >= 1 ? `${gib.toFixed(1)} GiB` : `${Math.round(number / 2 ** 20)} MiB`
}
