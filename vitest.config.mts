import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['__test__/**/*.test.ts'],
    globalSetup: ['__test__/global-setup.ts'],
    typecheck: { enabled: true, include: ['__test__/**/*.test-d.ts'], tsconfig: 'tsconfig.json' },
    // The addon's threads are per process: a process per file is what users have too.
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
