def fit_token_ids(tokenize, prompts, index, n):
    ids = tokenize(prompts[index]["passage"])
    return (ids * 50)[:n] if n else ids
def shipped_prompts(): return [{"id":f"p{i:02d}","passage":"The sky above the port was number %d " % i + "and the rain fell. " * i} for i in range(20)]
def read_prompts(p): return []
