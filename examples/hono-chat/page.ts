/** A page that talks to the server. */
export const page = `<!doctype html>
<meta charset="utf-8">
<title>pillion chat</title>
<style>
  body { font: 16px/1.5 system-ui; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
  p { white-space: pre-wrap }
  .user { font-weight: bold }
  form { display: flex; gap: .5rem }
  input { flex: 1; font: inherit; padding: .4rem }
</style>
<main></main>
<form><input name="content" placeholder="Say something" autofocus autocomplete="off"><button>Send</button></form>
<script type="module">
  const main = document.querySelector('main')
  const messages = []
  const show = (role, text) => {
    const line = main.appendChild(document.createElement('p'))
    line.className = role
    line.textContent = text
    return line
  }
  document.querySelector('form').onsubmit = async (event) => {
    event.preventDefault()
    const { content } = event.target.elements
    messages.push({ role: 'user', content: content.value })
    show('user', content.value)
    content.value = ''
    const answer = show('assistant', '')
    const response = await fetch('/chat', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ messages }),
    })
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
    for (let part = await reader.read(); !part.done; part = await reader.read()) answer.textContent += part.value
    messages.push({ role: 'assistant', content: answer.textContent })
  }
</script>
`
